"""Evaluation files are read before anything is computed, and what is wrong with one names evaluate.files."""

import re

import pytest

from snaketune.common.errors import ConfigError
from snaketune.config import evaluation_check
from snaketune.config.discovery import Discovery
from snaketune.config.evaluation_check import check_evaluation_files
from snaketune.config.resolve import Layer, resolve_runs

GOOD = '{"prompt": "a", "completion": "b"}\n'


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(GOOD)
    return tmp_path


def check(place, text, **evaluate):
    (place / "e.jsonl").write_text(text)
    file = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}, "runs": {"one": {}}}
    runs = resolve_runs(Layer("c", {**file, "evaluate": {"files": ["e.jsonl"], **evaluate}}), {}, "nowhere")
    found = Discovery("digests.json")
    for run in runs:
        found.look_up(run.config)
    check_evaluation_files(runs, found, place / "checked.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"e\.jsonl is empty .*evaluate\.files"),
        ("\n\n", r"e\.jsonl has only blank lines: remove it from evaluate\.files"),
        ('{"text": "a"}\n', "plain text"),
        ('{"a": 1}\n', r"e\.jsonl"),
        (GOOD + "{\n", "1 lines of e.jsonl cannot be used"),
    ],
)
def test_a_file_without_a_usable_record_is_found_at_the_start(place, text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check(place, text)
    assert str(caught.value).startswith("run one: evaluate.files: ")
    assert not re.search(r"data\.sources|data\.format", str(caught.value))


def test_columns_that_are_named_wrongly_name_their_own_key(place):
    with pytest.raises(ConfigError, match=r"evaluate\.columns: .*'q'"):
        check(place, GOOD, columns={"prompt": "q"})


def test_what_was_read_is_read_again_when_it_changed(place, monkeypatch):
    check(place, GOOD)
    reads = []
    original = evaluation_check.canonical_records
    monkeypatch.setattr(evaluation_check, "canonical_records", lambda *given: reads.append(1) or original(*given))
    check(place, GOOD)
    assert reads == []
    (place / "checked.json").write_text("[1")
    check(place, GOOD)
    assert reads == [1]
    with pytest.raises(ConfigError):
        check(place, "no record\n")
