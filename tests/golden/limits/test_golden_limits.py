"""What becomes of records that are longer than the model's context: what the screen says, the account and the rows.

After a wanted change, `python tests/golden/limits/test_golden_limits.py` writes the expected files anew; the change to
them is then what is to be reviewed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import orjson
import pytest

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[2] / "scripts"
EXPECTED = HERE / "expected"
TOKENIZER = HERE.parent / "preferences" / "inputs" / "tokenizer"
MODEL = {"vocab_size": 261, "context_length": 256, "tokenizer_digest": "t"}
TEXTS, CHATS = "longer_than_the_context.jsonl", "long_chats.jsonl"
CASES = {
    "texts": (TEXTS, {}),
    "chats_dropped": (CHATS, {}),
    "chats_dropped_allowed": (CHATS, {"max_dropped_fraction": 0.95}),
    "chats_truncated": (CHATS, {"on_too_long": "truncate", "max_dropped_fraction": 0.5}),
}


def make(source, changes, work):
    """Run the scripts from a raw file to packed rows; return what the screen says from tokenising on, and statuses."""
    sys.path.insert(0, str(SCRIPTS))
    from snaketune.config.schema import TokensConfig
    from snaketune.core.digests import file_digest
    from snaketune.core.manifest import write_manifest

    shutil.copytree(TOKENIZER, work / "model")
    write_manifest(work / "model.json", "prepare_tokenizer", [], MODEL)
    (work / "none.jsonl").touch()
    lengths = {"max_length": "auto", "on_too_long": "drop", "coverage": 1.0, "pad_to_multiple_of": 64} | changes
    told = []

    def run(script, cfg, **arguments):
        options = [part for key, value in arguments.items() for part in (f"--{key}", value)]
        command = [sys.executable, SCRIPTS / f"{script}.py", "--spec", orjson.dumps({"cfg": cfg}).decode(), *options]
        done = subprocess.run(
            command, cwd=HERE, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "random"}
        )
        told.append({"stage": script, "status": done.returncode, "screen": (done.stdout + done.stderr).splitlines()})
        return done.returncode == 0

    settings = {"settings": orjson.dumps({"scratch": None, "threads": 1, "work": str(work)}).decode()}
    cfg = {"sources": [{"path": f"inputs/{source}", "digest": file_digest(HERE / "inputs" / source)}]}
    run("stage_sources", cfg, output=work / "stage.json", manifest=work / "stage_sources.json", **settings)
    outputs = {"records": work / "train.jsonl", "quarantine": work / "quarantine.jsonl", "manifest": work / "read.json"}
    cfg = {"data": {"format": "auto", "columns": {}, "system_prompt": None, "max_bad_fraction": 0.5}}
    run("read_records", cfg, stage=work / "stage.json", **outputs, **settings)
    outputs = {"output-train": work / "train", "output-eval": work / "eval", "template": work / "template"}
    outputs |= {"dropped": work / "dropped.jsonl", "manifest": work / "tokens.json"}
    inputs = {"train": work / "train.jsonl", "eval": work / "none.jsonl", "model": work / "model.json"}
    inputs["stage"] = work / "stage.json"
    tokenising = {"tokens": TokensConfig(chat_template="chatml").model_dump(mode="json")}
    run("tokenize_records", tokenising, **inputs, **outputs, **settings)
    inputs = {"tokens": work / "tokens.json", "model": work / "model.json", "output": work / "rightsize.json"}
    if run("rightsize", {"tokens": lengths}, **inputs):
        inputs = {"tokens": work / "tokens.json", "rightsize": work / "rightsize.json", "manifest": work / "pack.json"}
        cfg = {"tokens": {"packing": True, "on_too_long": lengths["on_too_long"]}}
        run("pack_rows", cfg, train=work / "train.arrow", eval=work / "eval.arrow", **inputs)
    return told[2:]


def facts_of(told, work):
    """Return what is compared: the screen, and the accounts of length and of rows where there are any."""
    accounts = {
        path.stem: orjson.loads(path.read_bytes())
        for path in (work / "rightsize.json", work / "pack.json")
        if path.exists()
    }
    return orjson.dumps({"told": told, **accounts}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("case", CASES)
def test_screen_and_account_are_as_expected(tmp_path, case):
    told = make(*CASES[case], tmp_path)
    assert facts_of(told, tmp_path) == (EXPECTED / f"{case}.json").read_bytes()


@pytest.mark.usefixtures("forked")
def test_every_token_of_the_handed_texts_is_trained_once(tmp_path):
    make(*CASES["texts"], tmp_path)
    from tokenizers import Tokenizer

    from snaketune.data.rows.packed_rows import PackedRows

    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    texts = [orjson.loads(line)["text"] for line in (HERE / "inputs" / TEXTS).read_bytes().splitlines()]
    ids = [tokenizer.encode(text).ids for text in texts]
    eos = orjson.loads((TOKENIZER / "tokenizer_config.json").read_bytes())["eos_token"]
    end = tokenizer.token_to_id(eos if isinstance(eos, str) else eos["content"])
    source = Counter(token for row in ids for token in [*row, end][1:])
    rows = PackedRows(tmp_path / "train.arrow")
    assert Counter(rows.input_ids[rows.loss_mask == 1].tolist()) == source
    assert sum(source.values()) > 10 * MODEL["context_length"]


if __name__ == "__main__":
    EXPECTED.mkdir(exist_ok=True)
    for name, (source, changes) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            told = make(source, changes, Path(folder))
            (EXPECTED / f"{name}.json").write_bytes(facts_of(told, Path(folder)))
