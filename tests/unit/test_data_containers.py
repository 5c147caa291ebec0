"""Every container gives the records of the same JSON lines, whatever the file is called, or one sentence."""

import bz2
import csv
import datetime
import decimal
import functools
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import PAIR, read, read_bytes, source

from snaketune.core.errors import DataError
from snaketune.data.records.accounting import summary_of

GOLDEN = Path(__file__).parents[1] / "golden" / "containers"
PAIRS = [{"prompt": f"Frage {n} \u2028 \U0001f600", "completion": f'a "{n}", b\nc\r\nd\te'} for n in range(3000)]
gz = functools.partial(gzip.compress, mtime=0)


def as_csv(records, **options):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(records[0]), **options)
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def as_parquet(records, **options):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), file, **options)
    return file.getvalue()


def as_arrow(records, make=pa.ipc.new_file):
    return as_arrow_table(pa.Table.from_pylist(records), make)


def as_arrow_table(table, make=pa.ipc.new_file):
    file = io.BytesIO()
    with make(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)
    return file.getvalue()


def zipped(*members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members:
            made.writestr(name, content)
    return file.getvalue()


def tarred(*members, mode="w"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as made:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return file.getvalue()


LINES = b"".join(orjson.dumps(record) + b"\n" for record in PAIRS)
JSON = json.dumps(PAIRS)
CONTAINERS = {
    "array": JSON.encode(),
    "array on lines": b"[\n" + b",\n".join(LINES.splitlines()) + b"\n]\n",
    "pretty array": json.dumps(PAIRS, indent=2, ensure_ascii=False).encode(),
    "pretty objects": b"\n".join(json.dumps(record, indent=1).encode() for record in PAIRS),
    "objects without a break": b"".join(json.dumps(record, indent=1).encode() for record in PAIRS),
    "objects with commas": b",\n".join(LINES.splitlines()),
    "object with a list": json.dumps({"version": "1.0", "data": PAIRS, "splits": ["a", "b"]}).encode(),
    "pretty object with a list": json.dumps({"meta": {"x": [1]}, "rows": PAIRS}, indent=4).encode(),
    "csv": as_csv(PAIRS),
    "csv with semicolons": as_csv(PAIRS, delimiter=";", lineterminator="\n"),
    "csv all in quotes": as_csv(PAIRS, quoting=csv.QUOTE_ALL),
    "csv of a spreadsheet": b"\xef\xbb\xbfsep=;\r\n" + as_csv(PAIRS, delimiter=";"),
    "tsv": as_csv(PAIRS, delimiter="\t"),
    "bars": as_csv(PAIRS, delimiter="|"),
    "parquet": as_parquet(PAIRS),
    "parquet in groups": as_parquet(PAIRS, row_group_size=100, compression="zstd"),
    "arrow file": as_arrow(PAIRS),
    "arrow stream": as_arrow(PAIRS, pa.ipc.new_stream),
}
WRAPPERS = {
    "gzip": gz,
    "zstd": lambda content: pa.compress(content, codec="zstd", asbytes=True),
    "xz": functools.partial(lzma.compress, preset=0),
    "bzip2": functools.partial(bz2.compress, compresslevel=1),
    "zip": lambda content: zipped(("data/", b""), ("data/x", content), ("__MACOSX/._x", b"?")),
    "tar": lambda content: tarred(("x", content)),
    "tar.gz": lambda content: tarred(("data/x", content), mode="w:gz"),
}


@functools.cache
def expected():
    made = [
        {"role": role, "content": record[key]}
        for record in PAIRS
        for role, key in (("user", "prompt"), ("assistant", "completion"))
    ]
    return [made[n : n + 2] for n in range(0, len(made), 2)]


def assert_all_there(found):
    assert [record["line"] for record in found.records] == list(range(1, len(PAIRS) + 1))
    assert [record["messages"] for record in found.records] == expected()
    assert found.quarantine == []


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_gives_the_records_of_the_lines(tmp_path, kind):
    found = read_bytes(tmp_path, CONTAINERS[kind], name="file")
    assert_all_there(found)
    assert found.facts["sources"][0]["container"]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("kind", ["array", "csv", "parquet", "arrow stream"])
def test_what_is_around_a_container_is_taken_off(tmp_path, kind, wrapper):
    assert_all_there(read_bytes(tmp_path, WRAPPERS[wrapper](CONTAINERS[kind]), name="file"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["array", "pretty objects", "object with a list", "csv", "tsv"])
def test_a_byte_order_mark_may_come_first(tmp_path, kind, encoding):
    assert_all_there(read_bytes(tmp_path, CONTAINERS[kind].decode().encode(encoding), name="file"))


@pytest.mark.parametrize("kind", ["array", "pretty objects", "csv", "parquet", "arrow file"])
def test_several_processes_give_the_same_bytes(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("snaketune.data.records.record_reader.processes_for", lambda sources, threads: threads)
    one = read(tmp_path, source(tmp_path / "x", CONTAINERS[kind] if kind != "csv" else as_csv(PAIRS)))
    two = read(tmp_path, source(tmp_path / "x"), threads=2)
    assert (one.records, one.facts) == (two.records, two.facts)


@pytest.mark.parametrize(
    ("name", "policy", "count"),
    [
        ("json_array.json", {}, 10),
        ("json_lines_named.json", {}, 10),
        ("json_object_with_one_list.json", {}, 10),
        ("pretty_objects.jsonl", {}, 8),
        ("byte_order_mark.jsonl", {}, 32),
        ("quoted_fields.csv", {}, 10),
        ("tabs.tsv", {}, 10),
    ],
)
def test_golden_containers_are_kept_whole(tmp_path, name, policy, count):
    found = read(tmp_path, source(GOLDEN / name, name=name), **policy)
    made = b"".join(orjson.dumps(record) + b"\n" for record in found.records)
    assert len(found.records) == count
    assert found.quarantine == []
    assert made == (GOLDEN / f"{name}.records.jsonl").read_bytes()


def test_settings_of_a_source_reach_its_records(tmp_path):
    from snaketune.storage.copy_targets import NamedSource

    one, place = source(tmp_path / "a.csv", b"x,y\na,b\n")
    options = {"name": "sums", "format": "prompt_completion", "columns": {"prompt": "x", "completion": "y"}}
    own = NamedSource(one.path, one.bytes, one.digest, options)
    found = read(tmp_path, (own, place), source(tmp_path / "b.jsonl", PAIR))
    assert [[turn["content"] for turn in record["messages"]] for record in found.records] == [["a", "b"], ["a", "b"]]
    assert [entry.get("name") for entry in found.facts["sources"]] == ["sums", None]
    assert summary_of(found.facts)[0].startswith(f"Read sums, {tmp_path}/a.csv (CSV) as prompt_completion: 1 record")


@pytest.mark.parametrize("place", [b"prompt\0", b"\x01\0\0\0\x02\0\0\0\x03\0\0\0"])
def test_a_damaged_offset_or_name_of_a_table_is_one_sentence(tmp_path, place):
    table, file = pa.table({"prompt": list("abcd"), "completion": list("efgh")}), io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    content = file.getvalue()
    assert place in content
    broken = content.replace(place, b"\xff" * len(place))
    with pytest.raises(DataError, match=r"x: the table is damaged|x has no known format"):
        read(tmp_path, source(tmp_path / "x", broken))


def test_quotes_are_quotes_where_a_table_fits_with_them_and_without(tmp_path):
    content = b'prompt\tcompletion\na\tb\n"c\td\ne"\tf\n'
    [_, second] = read(tmp_path, source(tmp_path / "x.tsv", content)).records
    assert [turn["content"] for turn in second["messages"]] == ["c\td\ne", "f"]
    without = b'prompt\tcompletion\na "b\t"c\n"d\te\n'
    assert len(read(tmp_path, source(tmp_path / "y.tsv", without)).records) == 2


def test_a_nameless_first_column_is_the_numbers_of_rows(tmp_path):
    found = read_bytes(tmp_path, b",prompt,completion\n0,a,b\n1,c,d\n", name="x.csv")
    assert [record["messages"][0]["content"] for record in found.records] == ["a", "c"]


def test_what_stands_beside_the_list_of_an_object_is_named(tmp_path):
    found = read_bytes(tmp_path, CONTAINERS["object with a list"], name="x.json")
    assert found.facts["sources"][0]["beside"] == ["splits", "version"]
    first, second = summary_of(found.facts)
    assert first.endswith("0 records quarantined; prompt/completion in 3,000 of 3,000 records.")
    assert second == "  not used from the file: splits, version."


def test_very_many_sources_that_were_read_alike_share_a_sentence_and_others_have_their_own(tmp_path):
    line = b'{"prompt":"%d","completion":"b","source":"books"}\n'
    given = [source(tmp_path / f"{number:02}.jsonl", line % number * 2) for number in range(30)]
    given[7] = source(tmp_path / "bad.jsonl", line % 100 + b"half a li\n")
    given[9] = source(tmp_path / "other.jsonl", b'{"text":"a text"}\n')
    found = read(tmp_path, *given, max_bad_fraction=1)
    assert len(found.facts["sources"]) == 30
    said = [sentence.replace(f"{tmp_path}/", "") for sentence in summary_of(found.facts)]
    assert [sentence for sentence in said if not sentence.startswith(" ")] == [
        "Read 00.jsonl and 27 more sources as prompt_completion: 56 records, 0 lines quarantined; prompt/completion in"
        " 56 of 56 records.",
        "Read bad.jsonl as prompt_completion: 1 record, 1 line quarantined; prompt/completion in 1 of 2 records.",
        "Read other.jsonl as text: 1 record, 0 lines quarantined; text in 1 of 1 records.",
    ]
    assert len(said) == 5 and said[1].startswith("  not used: source (56 of 56 records, up to 7")
    assert len(summary_of({"sources": found.facts["sources"][10:]})) == 2 * 20
    # Nothing of the accounts themselves is summed up.
    assert [entry["records"] for entry in found.facts["sources"]] == [2] * 7 + [1] + [2] + [1] + [2] * 20


@pytest.mark.parametrize(
    "content",
    [
        b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}',
        b'{"prompt":"a",\n"completion":"b","tags":[{"x":1}]}',
        b'[{"role":"user","content":"a"}]\n[{"role":"user","content":"b"}]',
    ],
)
def test_a_list_inside_of_a_record_is_no_container(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    from snaketune.data.sources.blocks import SourceBlocks

    given, _ = source(tmp_path / "x")
    found = SourceBlocks(0, "x", tmp_path / "x", given.digest)
    assert b"a" in b"".join(block.content for block in found)
    assert found.container.kind in ("lines", "objects")


def test_numbers_and_their_spelling_stay_as_they_are_written(tmp_path):
    from snaketune.data.sources.blocks import blocks_of

    items = [b'{"a": 1.10, "b": 1e5, "c": 12345678901234567890123}', b'{"d":"\\u0041 \\\\\\" ]},["}']
    path = tmp_path / "x"
    path.write_bytes(b"[ " + b" ,\n".join(items) + b"]")
    given, _ = source(path)
    lines = [line.strip() for block in blocks_of(0, "x", path, given.digest) for line in block.items() if line]
    assert lines == items


def test_the_offset_of_an_item_leads_to_it(tmp_path):
    content = json.dumps([{"prompt": "a", "completion": "b"}, {"prompt": 1}, {"prompt": "", "x": 2}], indent=2).encode()
    found = read_bytes(tmp_path, content, name="x")
    for bad, text in zip(found.quarantine, ('"prompt": 1', '"x": 2'), strict=True):
        assert orjson.loads(bad["raw"]) == orjson.loads(content[bad["offset"] :].split(b"}")[0] + b"}")
        assert text in bad["raw"]


def test_a_bad_item_of_an_array_is_set_aside_with_its_number(tmp_path):
    content = b"[" + PAIR + b', {"prompt": NaN}, {"prompt": "a\nb"},\n 7, ' + PAIR + b"]"
    found = read_bytes(tmp_path, content, name="x")
    assert [record["line"] for record in found.records] == [1, 5]
    assert [(bad["line"], bad["reason"]) for bad in found.quarantine] == [
        (2, "nan_literal"),
        (3, "not_json"),
        (4, "not_an_object"),
    ]


def test_the_row_and_its_values_are_in_the_quarantine(tmp_path):
    content = b'prompt,completion\na,b\n\n"x\ny",\n\xff,b\n'
    found = read_bytes(tmp_path, content, name="x.csv", format="prompt_completion")
    assert [record["line"] for record in found.records] == [1]
    assert [(bad["line"], bad["reason"], bad["offset"]) for bad in found.quarantine] == [
        (3, "empty_completion", None),
        (4, "invalid_utf8", None),
    ]
    assert orjson.loads(found.quarantine[0]["raw"]) == {"prompt": "x\ny", "completion": ""}


def test_values_of_tables_become_json_by_stated_rules(tmp_path):
    from snaketune.data.sources.tables import rows_of

    table = pa.table(
        {
            "day": pa.array([datetime.date(2024, 2, 29), None]),
            "time": pa.array([datetime.datetime(2024, 2, 29, 1, 2, 3, tzinfo=datetime.UTC), None]),
            "money": pa.array([decimal.Decimal("1.10"), decimal.Decimal("0.00")]),
            "short": pa.array([0.1, float("nan")], pa.float32()),
            "endless": pa.array([float("inf"), 2.0]),
            "kind": pa.array(["a", None]).dictionary_encode(),
            "text": pa.array(["ä".encode(), b"\xff\xfe"], pa.binary()),
            "turns": pa.array([[{"role": "user", "tool": None}], None]),
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
            "big": pa.array([2**63 - 1, None]),
        }
    )
    assert rows_of(table) == [
        {
            "day": "2024-02-29",
            "time": "2024-02-29T01:02:03+00:00",
            "money": "1.10",
            "short": 0.1,
            "endless": "inf",
            "kind": "a",
            "text": "ä",
            "turns": [{"role": "user"}],
            "map": {"k": 1},
            "big": 2**63 - 1,
        },
        {"money": "0.00", "endless": 2.0, "text": {"bytes": 2}, "map": {}},
    ]


def test_a_row_with_a_value_that_is_none_is_set_aside_alone(tmp_path):
    pieces = [pa.array([b"a", b"\xff"], pa.binary()).view(pa.string()), pa.array(["b", "b"])]
    maps = pa.array([[("k", 1)], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
    for name, columns, reason in (
        ("x", {"prompt": pieces[0], "completion": pieces[1]}, "invalid_utf8"),
        ("y", {"prompt": pieces[1], "completion": pieces[1], "map": maps}, "duplicate_key"),
    ):
        with pa.ipc.new_file(tmp_path / name, pa.table(columns).schema) as file:
            file.write_table(pa.table(columns))
        found = read(tmp_path, source(tmp_path / name), max_bad_fraction=1.0)
        assert [record["line"] for record in found.records] == [1]
        assert [(bad["line"], bad["reason"]) for bad in found.quarantine] == [(2, reason)]


BAD = {
    "two columns of one name": (
        as_arrow_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])),
        "has two columns named 'prompt'",
    ),
    "an array cut in the middle": (
        JSON.encode()[:-30],
        r"the JSON array ends in the middle, in item 3000: download or",
    ),
    "an array that text follows": (b"[" + PAIR + b"] x", "text follows the end of the JSON array, 'x': remove it"),
    "brackets that do not match": (b"[" + PAIR + b"}", "the brackets of the JSON array do not match at item 1"),
    "an object cut in the middle": (CONTAINERS["object with a list"][:-40], "the JSON object ends in the middle"),
    "objects cut in the middle": (CONTAINERS["pretty objects"][:-3], "the JSON text ends in the middle, in item 3000"),
    "two lists": (
        b'{"train":[{"a":1}],"test":[{"a":2}]}',
        r"holds several lists, 'train' and 'test'.*jq -c '\.\[",
    ),
    "a list given twice": (b'{"data":[{"a":1}],\n"data":[{"a":2}]}', "'data' occurs twice"),
    "a ragged row": (b"prompt,completion\na,b\n1,2,3\n" + b"a,b\n" * 9, r"x\.csv row 2 has 3 fields and the header 2"),
    "a short row": (
        b"prompt,completion\na,b\n1\n",
        r"row 2 has 1 fields and the header 2 \(prompt, completion\)",
    ),
    "an open quote": (b'prompt,completion\na,b\n"1,2\n', r"x\.csv row 2: a quote is opened and not closed"),
    "text after a quote": (
        b'prompt,completion\na,b\n"1"x,2\n' + b"a,b\n" * 99999,
        "row 2: .* text follows a closed",
    ),
    "a column twice": (b"a,a\n1,2\n", "has two columns named 'a'"),
    "a cut parquet": (CONTAINERS["parquet"][:-100], "the table is damaged or truncated"),
    "a damaged parquet": (
        CONTAINERS["parquet"][:9000] + b"x" * 900 + CONTAINERS["parquet"][9900:],
        "the table is damaged or truncated",
    ),
    "a cut arrow stream": (CONTAINERS["arrow stream"][:-3000], "the table is damaged or truncated after row"),
    "a cut zip": (WRAPPERS["zip"](LINES)[:-100], "is a zip archive that cannot be read"),
    "two members in a zip": (
        zipped(("a", PAIR), ("b", PAIR)),
        r"zip archive with more than one file \('a', 'b'\)",
    ),
    "two members in a tar": (tarred(("a", PAIR), ("b", PAIR)), r"tar archive with more than one file \('a', 'b'\)"),
    "a member that climbs": (zipped(("../x", PAIR)), r"'\.\./x' in it points outside of the archive"),
    "an absolute member": (tarred(("/etc/x", PAIR)), "'/etc/x' in it points outside of the archive"),
    "a zip without a file": (zipped(("a/", b"")), "a zip archive without a file in it"),
    "a workbook": (zipped(("xl/workbook.xml", b""), ("xl/a.xml", b"")), "is an Office document: save its table as CSV"),
    "a bomb in a zip": (zipped(("x", PAIR + b"\n" + b" " * (40 << 20))), "over 250 times as much"),
    "a bomb in a bomb": (gz(gz(PAIR + b"\n" + b" " * (40 << 20))), "over 250 times as much"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_one_sentence_and_nothing_is_published(tmp_path, kind):
    content, sentence = BAD[kind]
    with pytest.raises(DataError, match=sentence) as caught:
        read_bytes(tmp_path, content, name="x.csv", format="prompt_completion")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "records.jsonl").exists()
