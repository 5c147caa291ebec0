"""Evaluation texts come out of every container, and each file that cannot be used is one sentence with the key."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snaketune.core.digests import file_digest
from snaketune.core.errors import DataError
from snaketune.data.similarity.evaluation_texts import read_evaluation_texts

RECORDS = [{"question": "How far?", "answer": "Three days, on foot."}, {"question": "Why?", "answer": "So."}]
TEXTS = [text for record in RECORDS for text in record.values()]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {"path": str(path), "digest": file_digest(path)}


def texts_of(entry):
    return [text.text for text in read_evaluation_texts([entry])]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "\n".join(map(json.dumps, RECORDS))),
        ("a.json", json.dumps(RECORDS, indent=2)),
        ("a", json.dumps({"version": 2, "data": RECORDS})),
        ("a.csv", 'question,answer\nHow far?,"Three days, on foot."\nWhy?,So.\n'),
        ("a.gz", gzip.compress("\n".join(map(json.dumps, RECORDS)).encode(), mtime=0)),
        ("a.txt", "\ufeff" + "\n\n".join(TEXTS)),
        ("a.txt.gz", gzip.compress("\n".join(TEXTS).encode(), mtime=0)),
        ("strings.jsonl", "\n".join(map(json.dumps, TEXTS))),
    ],
)
def test_every_string_of_every_container_is_a_text(tmp_path, name, content):
    assert texts_of(written(tmp_path / name, content)) == TEXTS


def test_rows_of_parquet_are_read_with_their_numbers(tmp_path):
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    found = list(read_evaluation_texts([written(tmp_path / "a.parquet", (tmp_path / "a.parquet").read_bytes())]))
    assert [(text.line, text.text) for text in found] == [(1 + place // 2, text) for place, text in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", "plain words\n", r"a\.jsonl line 1 is not JSON .*or name the file \.txt\."),
        ("a.jsonl", "", r"is empty \(0 bytes\): remove it from split\.decontaminate"),
        ("a.jsonl", '{"a": 1}\n', "holds no text"),
        ("a.json", '[{"a": "b"}, {"a"', "a.json"),
        ("a.txt.gz", gzip.compress(b"one\ntwo\n" * 99, mtime=0)[:-9], r"damaged or truncated after line"),
        ("a.jsonl.gz", gzip.compress(b'"one"\n' * 99, mtime=0)[:-9], r"damaged or truncated"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path, name, content, words):
    with pytest.raises(DataError, match=rf"^split\.decontaminate: .*{words}") as raised:
        texts_of(written(tmp_path / name, content))
    assert "\n" not in str(raised.value)
    assert "data.sources" not in str(raised.value)


def test_a_file_that_changed_meanwhile_is_refused(tmp_path):
    for name in ("a.txt", "a.jsonl"):
        entry = written(tmp_path / name, '"one"\n')
        (tmp_path / name).write_text('"two"\n')
        with pytest.raises(DataError, match=r"^split\.decontaminate: .*changed while the workflow ran"):
            texts_of(entry)
