"""Pairs of answers byte for byte: from raw preferences to packed rows, for a method that compares answers.

After a wanted change, `python tests/golden/preferences/test_golden_preferences.py` writes the expected files anew; the
change to them is then what is to be reviewed. `tokenized.json` shows in words what the Arrow files hold.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
import pytest

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[2] / "scripts"
EXPECTED = HERE / "expected"
SOURCE = "inputs/pairs.jsonl"
METHOD = {"train": {"method": "dpo"}}
READING = {"data": {"format": "auto", "columns": {}, "system_prompt": None, "max_bad_fraction": 0.5}}
DEDUPE = {"dedupe": {"exact": True, "ignore_case": False, "near": False}}
SPLIT = {"split": {"test_size": 0.2, "seed": 0, "stratify": False, "max_similarity": None, "decontaminate": []}}
TOKENS = {"tokens": {"chat_template": "chatml", "assistant_only_loss": True, "reasoning": "auto", "date": "2026-01-01"}}
LENGTHS = {"tokens": {"max_length": 320, "on_too_long": "drop", "coverage": 1.0, "pad_to_multiple_of": 64}}
LENGTHS["tokens"]["max_dropped_fraction"] = 0.6
PACKING = {"tokens": {"packing": True, "on_too_long": "drop"}}
MODEL = {"vocab_size": 261, "context_length": 4096, "tokenizer_digest": "t"}
LINES = ("records", "quarantine", "duplicates", "train", "eval", "dropped")


def make(work, expected):
    """Run the scripts from the raw file to packed rows in ``work`` and copy what is compared to ``expected``."""
    sys.path.insert(0, str(SCRIPTS))
    from snaketune.core.digests import file_digest
    from snaketune.core.manifest import write_manifest

    shutil.copytree(HERE / "inputs" / "tokenizer", work / "model")
    write_manifest(work / "model.json", "prepare_tokenizer", [], MODEL)
    own = {name: f"{work}/{name}.jsonl" for name in (*LINES, "kept", "leaks")}
    settings = {"settings": orjson.dumps({"scratch": None, "threads": 1, "work": str(work)}).decode()}
    splits = {name: own[name] for name in ("train", "eval")}

    def run(script, cfg, **arguments):
        call(script, cfg, manifest=f"{work}/{script}.json", **arguments)

    source = {"path": SOURCE, "digest": file_digest(HERE / SOURCE)}
    run("stage_sources", {"sources": [source]}, output=f"{work}/stage.json", **settings)
    reading = {"stage": f"{work}/stage.json", "records": own["records"], "quarantine": own["quarantine"]}
    run("read_records", READING | METHOD, **reading, **settings)
    pairs = {"kept": own["kept"], "duplicates": own["duplicates"], "removed": f"{work}/removed.arrow"}
    run("dedupe_records", DEDUPE, records=own["records"], **pairs, **settings)
    run("split_records", SPLIT, records=own["kept"], leaks=own["leaks"], **splits, **settings)
    folders = {f"output-{split}": f"{work}/{split}" for split in splits}
    tokens = {
        "model": f"{work}/model.json",
        "stage": f"{work}/stage.json",
        "template": f"{work}/template",
        "dropped": own["dropped"],
        **folders,
    }
    run("tokenize_records", TOKENS | METHOD, **tokens, **splits, **settings)
    made = {"tokens": f"{work}/tokenize_records.json", "rightsize": f"{work}/rightsize.json"}
    call("rightsize", LENGTHS, tokens=made["tokens"], model=tokens["model"], output=made["rightsize"])
    run("pack_rows", PACKING, **made, **{split: f"{work}/{split}.arrow" for split in splits})
    collect(work, expected)


def call(name, cfg, **arguments):
    arguments = {"spec": orjson.dumps({"cfg": cfg}).decode(), **arguments}
    options = [part for key, value in arguments.items() for part in (f"--{key}", value)]
    command = [sys.executable, SCRIPTS / f"{name}.py", *options]
    subprocess.run(command, cwd=HERE, check=True, env={**os.environ, "PYTHONHASHSEED": "random"})


def collect(work, expected):
    for name in (*(f"{name}.jsonl" for name in LINES), "rightsize.json", "pack_rows.json", "train.arrow", "eval.arrow"):
        shutil.copy(work / name, expected / name)
    for split in ("train", "eval"):
        shutil.copy(work / split / "data-00000-of-00001.arrow", expected / f"{split}.tokens.arrow")
    # What the gates of tokenising found depends on the packages that are installed.
    facts = orjson.loads((work / "tokenize_records.json").read_bytes())
    shown = {name: facts[name] for name in ("files", "splits", "examples")}
    (expected / "tokenized.json").write_bytes(orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


@pytest.mark.usefixtures("forked")
def test_every_file_is_as_expected_byte_for_byte(tmp_path):
    for name in ("work", "made"):
        (tmp_path / name).mkdir()
    make(tmp_path / "work", tmp_path / "made")
    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    expected = {path.name: path.read_bytes() for path in EXPECTED.iterdir()}
    assert made.keys() == expected.keys()
    for name, content in expected.items():
        assert made[name] == content, name


if __name__ == "__main__":
    EXPECTED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), EXPECTED)
