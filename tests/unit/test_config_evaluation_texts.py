"""Files of evaluation text are part of what splitting depends on, by content."""

import os

import pytest

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.workflow.sources.inputs import ExternalInputs
from snaketune.workflow.stages import slice_of


def config(**sections):
    file = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}, **sections}
    return resolve_runs(Layer("c", file), {}, "nowhere")[0].config


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    return tmp_path


def known_of(*patterns):
    wanted = config(split={"decontaminate": list(patterns)})
    inputs = ExternalInputs("digests.json")
    inputs.look_up(wanted)
    return inputs.outside("split_records", wanted)


def test_their_content_is_known_to_the_split_only(place):
    (place / "e1.txt").write_text("one")
    (place / "e2.txt").write_text("two")
    before = known_of("e*.txt")
    assert [entry["path"] for entry in before["evaluations"]] == ["e1.txt", "e2.txt"]
    (place / "e2.txt").write_text("more")
    assert known_of("e*.txt") != before
    wanted = config(split={"decontaminate": "e1.txt"})
    assert ExternalInputs("digests.json").outside("tokenize_records", wanted) == {}
    assert ExternalInputs("digests.json").outside("split_records", config()) == {}


def test_a_folder_means_what_was_held_out(place):
    for name in ("f/train.jsonl", "f/validation.csv", "f/test.parquet", "g/train.jsonl", "h/questions.json"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("x")
    assert [entry["path"] for entry in known_of("f", "h")["evaluations"]] == ["f/test.parquet", "h/questions.json"]
    with pytest.raises(ConfigError, match=r"^split\.decontaminate: g has only a train split: name the held-out files"):
        known_of("g")


@pytest.mark.parametrize("name", ["missing.txt", "pipe", "empty"])
def test_a_file_that_cannot_be_used_names_the_key(place, name):
    os.mkfifo(place / "pipe")
    (place / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"^split\.decontaminate: "):
        known_of(name)


def test_how_near_is_near_does_not_matter_when_nobody_asks():
    off = {"near": False, "exact": False}
    one, two = config(dedupe=off), config(dedupe={**off, "threshold": 0.5, "ngram": 3, "ignore_case": True})
    assert slice_of(one, "dedupe_records") == slice_of(two, "dedupe_records")
    assert slice_of(one, "dedupe_records") != slice_of(config(), "dedupe_records")
