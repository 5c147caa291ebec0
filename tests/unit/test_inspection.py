"""What `inspect` finds out about sources, says in the terminal and shows on its page."""

import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.config.schema import DataConfig, TokensConfig
from snaketune.config.schema_model import ModelConfig
from snaketune.core.digests import file_digest
from snaketune.data.formats.inspection import inspect_sources
from snaketune.data.records.reading_policy import ReadingPolicy
from snaketune.inspection import inspect_group
from snaketune.report.inspection_page import render_inspection, told
from snaketune.workflow.sources.inputs import ExternalInputs

SCRIPT = Path(__file__).parents[2] / "scripts" / "inspect_sources.py"
TINY = {"name_or_path": "tiny", "tiny": {"vocab_size": 400, "max_position_embeddings": 32, "corpus": "data"}}
PAIR = {"question": "How far is Rome?", "answer": "Three days on foot.", "lang": "en"}


def source(path, text):
    path.write_text(text)
    return {"path": str(path), "digest": file_digest(path)}


def group(*sources, method="sft", **data):
    values = DataConfig(sources=["a"], **data).model_dump(mode="json")
    values.pop("sources")
    cfg = {"data": values, "tokens": TokensConfig().model_dump(mode="json"), "train": {"method": method}}
    return {"runs": ["one"], "sources": sources, "cfg": cfg | {"model": ModelConfig(**TINY).model_dump(mode="json")}}


@pytest.fixture
def pairs(tmp_path):
    return source(tmp_path / "pairs.jsonl", "".join(json.dumps(PAIR) + "\n" for _ in range(5)) + "broken\n")


def test_a_source_is_shown_as_the_model_will_see_it(tmp_path, pairs):
    columns = {"prompt": "question", "completion": "answer"}
    facts = inspect_group(group(pairs, columns=columns), tmp_path)
    [found] = facts["sources"]
    assert (found["account"]["format"], found["records"]) == ("prompt_completion", 5)
    assert found["account"]["ignored"] == ["lang"]
    assert found["refused"] == {"not_json": 1}
    assert len(found["view"]["examples"]) == 3
    trained = "".join(part["text"] for part in found["view"]["examples"][0]["tokens"] if part["trained"])
    assert trained.startswith("Three days on foot.")
    assert "Rome" not in trained
    lines = "\n".join(told(facts))
    for words in (
        "question/answer read as",
        "5 records",
        "Not used: lang",
        "line 6",
        "Lengths: ",
        "【Three days on foot.",
    ):
        assert words in lines


def test_documents_longer_than_the_context_are_counted(tmp_path):
    long = {"prompt": "a", "completion": "one two three four five " * 30}
    entry = source(tmp_path / "a.jsonl", json.dumps(long) + "\n" + '{"prompt": "a", "completion": "b"}\n')
    assert "; 1 longer than the context" in "\n".join(told(inspect_group(group(entry), tmp_path)))


def test_what_is_refused_is_said_with_the_cure_and_the_others_are_shown(tmp_path):
    pairs = source(tmp_path / "none.jsonl", '{"a": 1}\n')
    other = source(tmp_path / "b.jsonl", '{"prompt": "a", "completion": "b"}\n')
    facts = inspect_group(group(pairs, other), tmp_path)
    assert facts["sources"][0]["error"]
    assert facts["sources"][1]["records"] == 1
    assert "  Refused: " in "\n".join(told(facts))
    page = render_inspection([facts])
    assert "Refused: " in page
    assert 'class="token trained">b' in page


def test_nothing_but_the_beginning_is_read(tmp_path):
    good = json.dumps({"prompt": "a" * 200, "completion": "b"}) + "\n"
    entry = source(tmp_path / "a.jsonl", good * 30_000 + "broken\n" * 10)
    [source_found] = inspect_sources([entry], ReadingPolicy(), tmp_path)
    assert not source_found.is_all
    assert not source_found.refused
    assert 200 <= len(source_found.records) < 5000
    [source_found] = inspect_sources([source(tmp_path / "b.jsonl", good)], ReadingPolicy(), tmp_path)
    assert source_found.is_all


def test_only_so_many_sources_are_looked_at_and_the_rest_is_counted(tmp_path):
    entries = [source(tmp_path / f"{n}.jsonl", '{"text": "a b c"}\n') for n in range(23)]
    facts = inspect_group(group(*entries), tmp_path)
    assert (len(facts["sources"]), facts["not_looked_at"]) == (20, 3)
    assert "3 more sources were not inspected." in told(facts)


def test_a_model_that_is_missing_leaves_the_reading(tmp_path, pairs):
    asked = group(pairs, columns={"prompt": "question", "completion": "answer"})
    asked["cfg"]["model"]["name_or_path"] = str(tmp_path / "nowhere")
    facts = inspect_group(asked, tmp_path)
    assert facts["sources"][0]["records"] == 5
    assert told(facts)[1].startswith("Not rendered for ")


def test_a_text_in_markup_stays_text(tmp_path):
    entry = source(tmp_path / "a.jsonl", '{"prompt": "a", "completion": "<script>alert(1)</script>"}\n')
    page = render_inspection([inspect_group(group(entry), tmp_path)])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_the_script_writes_the_page_and_fails_where_a_source_is_refused(tmp_path):
    entry = source(tmp_path / "a.jsonl", '{"a": 1}\n')
    spec = orjson.dumps({"cfg": {"groups": [group(entry)]}}).decode()
    command = [sys.executable, SCRIPT, "--spec", spec, "--output", tmp_path / "results" / "inspect.html"]
    (tmp_path / "results").mkdir()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "results" / "inspect.html").read_text().startswith("<!doctype html>")


def _pairs_of(size):
    line = json.dumps({"prompt": "a" * 200, "completion": "b" * 100})
    return line, size // len(line) + 1


def _lines(path):
    line, count = _pairs_of(6 << 20)
    path.write_text((line + "\n") * count)


def _array(path):
    line, count = _pairs_of(6 << 20)
    path.write_text("[\n" + (line + ",\n") * count)


def _rows(path):
    path.write_text("prompt,completion\n" + ("a" * 200 + "," + "b" * 100 + "\n") * 20_000)


def _zipped(path):
    line, count = _pairs_of(48 << 20)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", (line + "\n") * count)


def _table(path):
    texts = [random.Random(seed).randbytes(500).hex() for seed in range(48_000)]
    pq.write_table(pa.table({"prompt": texts, "completion": texts[::-1]}), path, row_group_size=len(texts))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what a process reads")
@pytest.mark.parametrize("write", [_lines, _array, _rows, _zipped, _table])
def test_however_large_a_source_is_a_look_reads_a_bounded_part_of_it(tmp_path, monkeypatch, write):
    def bytes_read():
        return int(Path("/proc/self/io").read_text().split()[1])

    monkeypatch.chdir(tmp_path)
    write(Path("source"))
    if write in (_lines, _array, _rows):
        os.truncate("source", 1 << 30)  # the rest is a hole, which takes no disk
    file = {"data": {"sources": ["source"]}, "model": {"name_or_path": "tiny"}}
    config = resolve_runs(Layer("c", file), {}, "nowhere")[0].config
    inspect_sources(
        [source(tmp_path / "b.jsonl", '{"text": "a"}\n')], ReadingPolicy(), tmp_path
    )  # whose imports are read, too
    before, found = bytes_read(), ExternalInputs("digests.json")
    [source_found] = inspect_sources(found.places(config), ReadingPolicy(), tmp_path)
    assert bytes_read() - before < 16 << 20
    assert len(source_found.records) >= 200
    assert not source_found.is_all
    if write is _table:
        assert len(found.sources(config)[0]["digest"]) == 32
        assert bytes_read() - before > 40 << 20
