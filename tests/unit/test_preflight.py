"""Sources are looked at and evaluation files are read before anything is computed; errors name the right key."""

import re

import pytest

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError, SnaketuneError
from snaketune.data.formats import inspection
from snaketune.evaluate.answers import evaluation_files
from snaketune.workflow.preflight import Preflight
from snaketune.workflow.sources.inputs import ExternalInputs

GOOD = '{"prompt": "a", "completion": "b"}\n'


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(GOOD)
    return tmp_path


def runs_of(**sections):
    file = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}, "runs": {"one": {}}, **sections}
    runs = resolve_runs(Layer("c", file), {}, "nowhere")
    found = ExternalInputs("digests.json")
    for run in runs:
        found.look_up(run.config)
    return runs, found


def check(place, text, **evaluate):
    (place / "e.jsonl").write_text(text)
    [run], found = runs_of(evaluate={"files": ["e.jsonl"], **evaluate})
    look = Preflight(found, place / "looked.json")
    look.check_evaluation_files(run.name, run.config)
    look.save()


def check_sources(place, text, **data):
    (place / "a.jsonl").write_text(text)
    [run], found = runs_of(data={"sources": ["a.jsonl"], **data})
    look = Preflight(found, place / "looked.json")
    look.check_sources(run.config)
    look.save()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"e\.jsonl is empty .*evaluate\.files"),
        ("\n\n", r"e\.jsonl has no record: remove it from evaluate\.files"),
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
    original = evaluation_files.canonical_records
    monkeypatch.setattr(evaluation_files, "canonical_records", lambda *given: reads.append(1) or original(*given))
    check(place, GOOD)
    assert reads == []
    (place / "looked.json").write_text("[1")
    check(place, GOOD)
    assert reads == [1]
    with pytest.raises(ConfigError):
        check(place, "no record\n")


@pytest.mark.parametrize("data", [{}, {"format": "prompt_completion"}])
@pytest.mark.parametrize("records", [3, 40_000])
def test_a_wrong_column_is_found_in_the_first_records(place, data, records):
    with pytest.raises(SnaketuneError, match=r"data\.columns: .*'q'"):
        check_sources(place, GOOD * records, columns={"prompt": "q"}, **data)


def test_an_optional_column_may_come_later(place):
    text = GOOD * 40_000 + '{"prompt": "a", "completion": "b", "offered": []}\n'
    check_sources(place, text, columns={"tools": "offered"})
    with pytest.raises(SnaketuneError, match=r"data\.columns: .*'offered'"):
        check_sources(place, GOOD, columns={"tools": "offered"})


def test_an_unknown_shape_is_found_and_a_source_that_was_read_is_not_read_again(place, monkeypatch):
    with pytest.raises(SnaketuneError, match=r"a\.jsonl has no"):
        check_sources(place, '{"a": 1}\n')
    check_sources(place, GOOD)
    monkeypatch.setattr(inspection, "read_beginning", None)
    check_sources(place, GOOD)
