"""Typed fact files: every golden file has its declared shape, and any wrong part is named in one sentence."""

import copy

import orjson
import pytest
from report_case import FILES, FOLDER

from snaketune.core.errors import DataError
from snaketune.facts.data_facts import STAGED
from snaketune.facts.fact_files import FORMAT_KEY, FactFile
from snaketune.facts.merge_facts import EXPORTED
from snaketune.facts.of_run import FACT_FILES
from snaketune.facts.plan_facts import PLAN
from snaketune.facts.probe_facts import PROBE
from snaketune.facts.shapes import ShapeError, shaped
from snaketune.plan.costs.probed import kept_probe

READ = {name: kind for name, kind in FACT_FILES.items() if name in FILES}
WRONG = ("text", 7, True, ["a"], {"a": 1}, None)


PROBED = {
    "identity": "a1",
    "measured_at": "2026-11-20T18:00:00+00:00",
    "machine": {"host": "here", "gpu": None},
    "load": 0.5,
    "origin": "measured",
    "probe": {
        "tokens_per_second": 100.0,
        "rates": [99.0, 100.0, 101.0],
        "spread": 0.02,
        "peak_memory_bytes": 10**9,
        "save_seconds": 0.1,
        "start_seconds": 2.0,
        "evaluation_seconds": None,
        "evaluation_tokens": 0,
        "measured_steps": 6,
        "answers": None,
    },
    "autotune": None,
}
STAGED_SOURCES = {
    "sources": [{"path": "a.jsonl", "bytes": 4, "digest": "d", "options": {"weight": 2.0}, "part": 1}],
    "chunks": {"0": [[1, 0, 0, 1, "d"]]},
}
EXPORT = {"type": "q8_0", "bytes": 9, "checked": True, "mean_kl": 0.1, "merged_loss": 1.0, "exported_loss": 1.1}
UNPAGED = {"probe": (PROBE, PROBED), "stage": (STAGED, STAGED_SOURCES), "gguf": (EXPORTED, EXPORT)}


def places(value, path=()):
    """Yield the path of every part of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield (*path, key)
        yield from places(one, (*path, key))


def with_part(document, path, value):
    """Return a copy of a document with one part replaced."""
    changed = copy.deepcopy(document)
    *way, last = path
    target = changed
    for key in way:
        target = target[key]
    target[last] = value
    return changed


@pytest.mark.parametrize("name", READ)
def test_any_wrong_part_is_read_or_refused_in_one_sentence(name):
    """No other error than DataError, whatever stands where: readers rely on the declared types."""
    document, refused = orjson.loads((FOLDER / FILES[name]).read_bytes()), 0
    for path in places(document):
        for value in WRONG:
            try:
                READ[name].parse(with_part(document, path, value), "x.json")
            except DataError as error:
                refused += 1
                assert str(error).startswith("x.json: ") and "delete it and run the same command" in str(error)
                assert "\n" not in str(error) and len(str(error)) < 300
    assert refused


@pytest.mark.parametrize("name", UNPAGED)
def test_facts_that_no_page_shows_are_checked_as_well(name):
    kind, document = UNPAGED[name]
    assert kind.parse(document, "x.json") == document
    refused = set()
    for path in places(document):
        for value in WRONG:
            try:
                kind.parse(with_part(document, path, value), "x.json")
            except DataError as error:
                refused.add(path)
                assert str(error).startswith("x.json: ") and "\n" not in str(error)
    assert {path for path in places(document) if len(path) == 1} <= refused


def test_a_damaged_probe_or_one_of_another_version_is_measured_again(tmp_path):
    path = tmp_path / "probe.json"
    assert kept_probe(tmp_path) is None
    PROBE.write(path, PROBED)
    assert kept_probe(tmp_path) == {FORMAT_KEY: 1, **PROBED}
    for changed in ({FORMAT_KEY: 2}, {"measured_at": "once"}, {"probe": {}}):
        path.write_bytes(orjson.dumps({**PROBED, **changed}))
        assert kept_probe(tmp_path) is None
    path.write_text("{")
    assert kept_probe(tmp_path) is None


def test_the_sentence_has_place_value_and_fix():
    document = orjson.loads((FOLDER / "plan.json").read_bytes())
    with pytest.raises(DataError, match=r"^p\.json: fit\[1\]\.methods\.lora\.needs_gb is 'much', not a number: delete"):
        document["fit"][1]["methods"]["lora"]["needs_gb"] = "much"
        PLAN.parse(document, "p.json")
    del document["device"]["gpus"], document["fit"]
    with pytest.raises(DataError, match=r"^p\.json: device\.gpus is missing \(it has to be a whole"):
        PLAN.parse(document, "p.json")


def test_a_newer_format_is_refused_and_an_older_file_is_read(tmp_path):
    kind = FactFile(PLAN.kind, format=2)
    document = orjson.loads((FOLDER / "plan.json").read_bytes())
    assert document.get(FORMAT_KEY) is None and kind.parse(document, "p.json")["steps"] == document["steps"]
    kind.write(tmp_path / "plan.json", kind.parse(document, "p.json"))
    assert orjson.loads((tmp_path / "plan.json").read_bytes())[FORMAT_KEY] == 2
    assert kind.read(tmp_path / "plan.json")["steps"] == document["steps"]
    with pytest.raises(DataError, match="its format is 2, and this version reads formats up to 1: use the version"):
        PLAN.read(tmp_path / "plan.json")


def test_what_an_older_version_did_not_write_is_filled_in():
    filled = shaped({"train": {"seconds": 2}}, FACT_FILES["info"].kind)
    assert filled["train"] == {"started": None, "finished": None, "seconds": 2}
    assert filled["machine"]["gpu"]["name"] is None and filled["resumed_from_step"] is None


@pytest.mark.parametrize(("value", "kind"), [(True, int), (True, float), (1, bool), (1.5, int), ("1", float)])
def test_a_flag_is_no_number_and_a_text_is_no_number(value, kind):
    with pytest.raises(ShapeError):
        shaped(value, kind)
