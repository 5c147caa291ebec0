"""The data path on small files of every format, byte for byte: from raw lines to both splits.

After a wanted change, `python tests/golden/data/test_golden_data.py` writes the expected files anew; the change to
them is then what is to be reviewed.
"""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[2] / "scripts"
EXPECTED = HERE / "expected"
SOURCES = ("chats.jsonl", "alpaca.jsonl", "pairs.jsonl", "texts.jsonl")
CFG = {
    "data": {"format": "auto", "columns": {}, "system_prompt": None, "max_bad_fraction": 0.5},
    "dedupe": {"exact": True, "ignore_case": False, "near": True, "threshold": 0.8, "num_perm": 125, "ngram": 5},
    "split": {"test_size": 0.2, "seed": 0, "stratify": False, "max_similarity": 0.5, "decontaminate": []},
}


def make(folder):
    """Run the scripts from raw files to splits, all outputs into ``folder``."""
    sys.path.insert(0, str(SCRIPTS))
    from snaketune.core.digests import file_digest

    sources = [{"path": f"inputs/{name}", "digest": file_digest(HERE / "inputs" / name)} for name in SOURCES]
    settings = orjson.dumps({"scratch": None, "threads": 1, "work": f"{folder}/work"}).decode()
    stage, records, kept = f"{folder}/stage.json", f"{folder}/records.jsonl", f"{folder}/kept.jsonl"
    call("stage_sources", {"sources": sources}, folder, settings=settings, output=stage)
    quarantine = f"{folder}/quarantine.jsonl"
    call("read_records", CFG, folder, settings=settings, stage=stage, records=records, quarantine=quarantine)
    pairs = {"removed": f"{folder}/removed.arrow", "kept": kept, "duplicates": f"{folder}/duplicates.jsonl"}
    call("dedupe_records", CFG, folder, settings=settings, records=records, **pairs)
    splits = {name: f"{folder}/{name}.jsonl" for name in ("train", "eval", "leaks")}
    call("split_records", CFG, folder, settings=settings, records=kept, **splits)


def call(name, cfg, folder, **arguments):
    arguments = {"spec": orjson.dumps({"cfg": cfg}).decode(), **arguments}
    options = [part for key, value in arguments.items() for part in (f"--{key}", value)]
    manifest = f"{folder}/{name}.manifest.json"
    command = [sys.executable, SCRIPTS / f"{name}.py", *options, "--manifest", manifest]
    subprocess.run(command, cwd=HERE, check=True, env={**os.environ, "PYTHONHASHSEED": "random"})


@pytest.mark.usefixtures("forked")
def test_every_file_is_as_expected_byte_for_byte(tmp_path):
    make(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    expected = {path.name: path.read_bytes() for path in EXPECTED.iterdir()}
    assert made.keys() == expected.keys()
    for name, content in expected.items():
        assert made[name] == content, name


if __name__ == "__main__":
    make(EXPECTED)
