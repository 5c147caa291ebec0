"""A variable of the shell that a package refuses is named in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from snaketune.core.environment import is_passed
from snaketune.core.errors import ConfigError
from snaketune.core.shell_settings import OF_TORCH, refused_setting

ROOT = Path(__file__).parents[2]
LOGS = "\nInvalid log settings: garbage, must be a comma separated list\n"
NAMED = "The value of TORCH_DISTRIBUTED_DEBUG must be OFF, INFO, or DETAIL."


def raised(error, place="/site-packages/torch/__init__.py", wrapped=False):
    """Return an error as raised by a line of a file, or one that was raised from it elsewhere."""
    try:
        exec(compile("raise error", place, "exec"), {"error": error})
    except type(error) as caught:
        if not wrapped:
            return caught
        try:
            raise RuntimeError("Failed to import transformers.trainer") from caught
        except RuntimeError as outer:
            return outer


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("TORCH_LOGS", "garbage", ValueError(LOGS)),
        ("TORCH_LOGS_OUT", "/nowhere/x", FileNotFoundError(2, "No such file or directory", "/nowhere/x")),
        ("TORCH_DISTRIBUTED_DEBUG", "loud", ValueError(NAMED)),
        ("TORCHINDUCTOR_COMPILE_THREADS", "many", ValueError("invalid literal for int() with base 10: 'many'")),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "it's", ValueError('invalid literal for int() with base 10: "it\'s"')),
        ("TQDM_MININTERVAL", "often", ValueError("could not convert string to float: 'often'")),
        ("PYTORCH_ALLOC_CONF", "garbage", RuntimeError('INTERNAL ASSERT FAILED at "/c10/core/AllocatorConfig.h":124')),
        ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:x", ValueError("stoull")),
    ],
)
def test_the_variable_is_named_with_its_value(name, value, error, wrapped):
    said = str(refused_setting(raised(error, wrapped=wrapped), {name: value, "HOME": "/root"}))
    assert f"{name}={value}" in said and f"unset {name}" in said and "\n" not in said
    assert is_passed(name)


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (ValueError(LOGS), "/site-packages/other/__init__.py"),
        (ValueError("invalid literal for int() with base 10: '1'"), "/project/scripts/snaketune/core/cli.py"),
        (ValueError("invalid literal for int() with base 10: '2'"), "/site-packages/torch/__init__.py"),
        (ValueError("another reason"), "/site-packages/torch/__init__.py"),
        (RuntimeError("CUDA out of memory. Try setting PYTORCH_CUDA_ALLOC_CONF"), "/site-packages/torch/cuda.py"),
    ],
)
def test_other_errors_are_not_blamed_on_the_shell(error, place):
    assert refused_setting(raised(error, place), dict.fromkeys([*OF_TORCH, "CI"], "1")) is None


def test_a_variable_that_is_not_set_is_not_blamed():
    assert refused_setting(raised(ValueError(LOGS)), {}) is None


def test_a_script_ends_in_the_sentence():
    code = "from snaketune.core.cli import run\nrun(lambda: __import__('torch'))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "TORCH_LOGS": "garbage"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == ConfigError.exit_code
    assert done.stderr.startswith("ConfigError: package torch does not accept TORCH_LOGS=garbage of the shell (")
    assert done.stderr.count("\n") == 1
