"""Configurations that are wrong in every way: each resolves or ends in one sentence, and soon."""

import random
from pathlib import Path

import pytest

from snaketune.config.consistency import check_run
from snaketune.config.known_keys import all_keys
from snaketune.config.resolve import Layer, merge, resolve_runs
from snaketune.config.strict_yaml import load_yaml
from snaketune.core.errors import ConfigError
from snaketune.workflow.stages import CONFIGURED_STAGES, stage_id

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "config" / "presets"
TEXT = """preset: quickstart
data:
  sources: [a.jsonl, "b/*.jsonl.gz"]
  columns: {prompt: question}
tokens: {max_length: auto, coverage: 0.99}
train: {method: sft, learning_rate: 2e-4}
runs:
  one: {adapter: {r: 8}}
  two: {model: {name_or_path: run:one}, train: {method: dpo}, data: {format: preference}}
"""
PIECES = ["~", "null", "[]", "{}", "&a ", "*a", "1e999", "-1", ".nan", "no", "'", '"', ":", "\n", "\n  ", "\t", "#"]
PIECES += [
    "run:two",
    "run:",
    "../../etc",
    "\x00",
    "\ud800",
    "\u2028",
    "\U0001f642",
    "2026-01-01",
    "0x10",
    "dpo",
    "true",
]
PIECES += ["- ", "!!set "]
VALUES = [None, True, False, 0, -1, 1, 2**70, 0.5, 1e308, float("nan"), float("inf"), "", " ", "x", "auto", "run:x"]
VALUES += ["2e-4", "null", "a" * 5000, "../..", "\n", "\ud800", [], [None], ["x"], [[]], {}, {"x": {}}, {"x": 1}]
VALUES += [{"default": None}]
WHOLE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}}


def outcome(layer, command_line):
    """Return ids or the sentence of the error; anything else is raised. A path is read."""
    try:
        file = layer if isinstance(layer, Layer) else Layer("c.yaml", load_yaml(layer))
        runs = resolve_runs(file, command_line, PRESETS)
        for run in runs:
            check_run(run)
        return [stage_id(run.config, stage) for run in runs for stage in CONFIGURED_STAGES]
    except ConfigError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 20_000
        return str(error)


def test_mutated_files_resolve_or_end_in_a_sentence(tmp_path):
    rng, path = random.Random(52), tmp_path / "c.yaml"
    resolved = 0
    for _ in range(400):
        text = TEXT
        for _ in range(rng.choice([1, 1, 2, 4])):
            start = rng.randrange(len(text) + 1)
            end = start + rng.choice([0, 0, 1, 5, 30])
            text = text[:start] + rng.choice([*PIECES, ""]) + text[end:]
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        resolved += type(outcome(path, {})) is list
    assert 20 < resolved < 380


@pytest.mark.parametrize("key", [*all_keys(), "preset", "runs", "data", "train", "nothing.here", ""])
def test_any_value_of_any_key_resolves_or_ends_in_a_sentence(key):
    for value in VALUES:
        nested = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        outcome(Layer("c.yaml", WHOLE), nested)
        outcome(Layer("c.yaml", merge(WHOLE, nested)), {})
