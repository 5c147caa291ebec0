"""Masks of the families that people fine-tune: what is trained is what inference asks for, by an independent rule.

The trained texts stand in ``tests/golden/templates/masks.json``, reviewed by eye. Run as a script, this file writes
them again.
"""

import json
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
from data_tokenizers import make_folder
from template_zoo import families
from tokenizers import AddedToken, Tokenizer

from snaketune.data.templates.inference_check import ReferenceTokenizer
from snaketune.data.tokens.chunk_tokenizing import ChunkTokenizer, Recipe
from snaketune.data.tokens.chunks import chunks_of

GOLDEN = Path(__file__).parents[1] / "golden" / "templates" / "masks.json"
CALL = {"id": "c00000001", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "note": "two words"}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "description": "One."}},
            "required": ["a"],
        },
    },
}


def _turn(role, content, **more):
    return {"role": role, "content": content, **more}


ASK, AGAIN = _turn("user", "Hi there"), _turn("user", "Bye")
RECORDS = {
    "single": {"messages": [ASK, _turn("assistant", "Hello!")]},
    "system": {"messages": [_turn("system", "Be brief."), ASK, _turn("assistant", "Hello!")]},
    "multi": {"messages": [ASK, _turn("assistant", "Hello!"), AGAIN, _turn("assistant", "See you.")]},
    "untrained": {"messages": [ASK, _turn("assistant", "draft", weight=0), AGAIN, _turn("assistant", "See you.")]},
    "spaces": {"messages": [ASK, _turn("assistant", "  two\n words ")]},
    "lines": {"messages": [ASK, _turn("assistant", "\n\nHello!")]},
    "reasoning": {
        "messages": [
            ASK,
            _turn("assistant", "Hello!", reasoning_content="greet first"),
            AGAIN,
            _turn("assistant", "See you.", reasoning_content="then leave"),
        ]
    },
    "think": {"messages": [ASK, _turn("assistant", "<think>\ngreet first\n</think>\n\nHello!")]},
    "no_think": {"messages": [_turn("system", "/no_think"), ASK, _turn("assistant", "Hello!")]},
    "tools": {
        "messages": [
            ASK,
            _turn("assistant", None, tool_calls=[CALL]),
            _turn("tool", "three", tool_call_id="c00000001", name="add"),
            _turn("assistant", "It is three."),
        ],
        "tools": [TOOL],
    },
}
RECORDS["empty"] = {**RECORDS["tools"], "messages": [dict(turn) for turn in RECORDS["tools"]["messages"]]}
RECORDS["empty"]["messages"][1]["content"] = ""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("zoo") / "base", special=[])


def folder_of(base, path, family):
    """A tokenizer with the control tokens of a family; Phi-3's role markers swallow white space after them."""
    path.mkdir()
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    swallow = "<|end|>" in family.stops
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False, rstrip=swallow and name != "<s>") for name in family.control]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": family.stops[0], "pad_token": "<pad>"}
    (path / "tokenizer_config.json").write_text(json.dumps(names | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    stops = [tokenizer.token_to_id(name) for name in family.stops]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    return path


def tokenize(folder, family, records, path, method):
    """The rows of each record, or the sentence that refuses it; and the worker."""
    lines = [orjson.dumps({"source": 0, "line": n, **record}) + b"\n" for n, record in enumerate(records, 1)]
    path.write_bytes(b"".join(lines))
    worker = ChunkTokenizer(Recipe(str(folder), family.source, True, method=method), "train")
    [chunk] = chunks_of(path)
    result = worker(chunk)
    found = {number: [] for number in range(len(records))}
    batch = result.batch.to_pydict()
    for number, ids, mask in zip(batch["record"], batch["input_ids"], batch["loss_mask"], strict=True):
        found[number].append((ids, np.asarray(mask, np.int8)))
    for entry in result.dropped:
        found[entry["record"]] = entry["reason"] + ": " + entry["detail"]
    return found, worker


def runs_of(mask):
    edges = np.flatnonzero(np.diff(mask, prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def check(name, family, record, rows, reference):
    """The rule of inference, from transformers alone: prompts are prefixes, ends are stops, nothing else is trained."""
    messages, tools = record["messages"], record.get("tools")
    places = [n for n, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != 0]
    prompts = [reference.ids(messages[:place], tools, True) for place in places]
    found = sorted(ids[:start] for ids, mask in rows for start, _ in runs_of(mask))
    assert found == sorted(prompts), name
    for ids, mask in rows:
        for start, end in runs_of(mask):
            spelled = [reference.text([token]) for token in ids[start:end]]
            assert spelled[-1] in family.stops or (name == "chatml" and spelled[-1] == "<|im_end|>"), (name, spelled)
            assert not set(spelled[:-1]) & set(family.stops), (name, spelled)
            text = reference.text(ids[start : end - 1])
            assert "Hi there" not in text and "Bye" not in text and "Be brief" not in text, (name, text)


def masks(family, base, path, name, method="segments"):
    folder = folder_of(base, path / "model", family)
    found, worker = tokenize(folder, family, RECORDS.values(), path / "train.jsonl", method)
    reference = ReferenceTokenizer(folder, worker.template, "2026-01-01")
    shown = {}
    for (kind, record), rows in zip(RECORDS.items(), found.values(), strict=True):
        if isinstance(rows, str):
            shown[kind] = rows
            continue
        [messages] = worker.renderer.conversations(record)
        check(name, family, {**record, "messages": messages}, rows, reference)
        decode = worker.tokenizer.decode
        shown[kind] = [[decode(ids[start:end]) for start, end in runs_of(mask)] for ids, mask in rows]
    return shown


@pytest.mark.parametrize("name", sorted(families()))
def test_masks_are_exactly_the_assistants_part(name, base, tmp_path):
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert masks(families()[name], base, tmp_path, name) == expected[name]


@pytest.fixture(scope="module", params=["metaspace", "legacy"])
def sentencepiece(request, tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("zoo") / "base", request.param, special=["<unk>"])


@pytest.mark.parametrize("name", ["llama2", "mistral_v1", "mistral_v3", "vicuna", "zephyr", "alpaca"])
def test_masks_follow_inference_with_sentencepiece_tokenizers(name, sentencepiece, tmp_path):
    shown = masks(families()[name], sentencepiece, tmp_path, name, "offsets")
    assert all(type(shown[kind]) is list for kind in ("single", "system", "multi", "untrained", "spaces"))


def test_the_zoo_is_large():
    assert len(families()) >= 25 or "cohere" not in families()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        base = make_folder(root / "base", special=[])
        shown = {}
        for name, family in sorted(families().items()):
            (root / name).mkdir()
            try:
                shown[name] = masks(family, base, root / name, name)
            except AssertionError as error:
                print(name, "FAILED", str(error)[:1500], file=sys.stderr)
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
