"""Whatever bytes come, in whatever wrapper: the right records or one sentence; no crash, no hang, no silent change."""

import csv
import io
import json
import zlib

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from data_files import source
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from snaketune.core.errors import DataError
from snaketune.data.records.parsing import parse_line
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.sources.blocks import SourceBlocks

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
# What containers are made of, so that random text looks like them.
SIGNS = st.text(st.sampled_from('{}[]",:;\t\n\r\\ |ab1'), max_size=30)
VALUE = TEXT | SIGNS
RECORDS = st.lists(st.fixed_dictionaries({"prompt": VALUE, "completion": VALUE}), min_size=2, max_size=8)
NESTED = st.recursive(
    VALUE | st.integers(-(2**60), 2**60) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(VALUE, inner, max_size=3),
    max_leaves=8,
)


def items_of(path, content):
    """Return number, record and offset of everything in a file, with bad records as their reason."""
    given_source, _ = source(path, content)
    blocks = SourceBlocks(0, path.name, path, given_source.digest)
    found = []
    for block in blocks:
        for number, item in enumerate(block.items(), block.line):
            if type(item) is not bytes:
                found.append((number, item))
            elif item and not item.isspace():
                try:
                    found.append((number, parse_line(item)))
                except RefusedLine as refusal:
                    found.append((number, refusal.reason))
    return blocks.container, found


def file_of(tmp_path_factory):
    return tmp_path_factory.getbasetemp() / "fuzzed"


@settings(max_examples=150, deadline=None)
@given(
    records=st.lists(st.dictionaries(VALUE, NESTED, min_size=1, max_size=3), min_size=2, max_size=6), style=st.data()
)
def test_json_in_any_layout_is_its_objects(tmp_path_factory, records, style):
    indent = style.draw(st.sampled_from([None, 0, 1, 4]))
    ascii_only = style.draw(st.booleans())
    texts = [json.dumps(record, indent=indent, ensure_ascii=ascii_only) for record in records]
    layout = style.draw(st.sampled_from(["array", "objects", "object"]))
    blank = style.draw(st.sampled_from(["", " ", "\n", "\r\n  "]))
    if layout == "array":
        content = f"{blank}[{blank}" + f"{blank},{blank}".join(texts) + f"]{blank}"
        assume(not {"role", "from"}.intersection(records[0]))
    elif layout == "objects":
        content = (blank or "\n").join(texts)
    else:
        content = f'{{"version":{blank}"1[{{", "items":{blank}[' + ",".join(texts) + f"],{blank}" + '"end": [1]}'
        assume(not {"role", "from"}.intersection(records[0]))
    container, found = items_of(file_of(tmp_path_factory), content.encode())
    assert [record for _, record in found] == [orjson.loads(text) for text in texts], container
    if layout != "objects" or container.kind == "objects":
        assert [number for number, _ in found] == list(range(1, len(records) + 1))


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.sampled_from([",", "\t", ";", "|"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_tables_as_text_are_what_the_csv_module_reads(tmp_path_factory, records, separator, end, all_quoted):
    if not all_quoted:  # that module does not quote a return everywhere
        records = [{key: text.replace("\r", "r") for key, text in record.items()} for record in records]
    file = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(file, ["prompt", "completion"], delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writeheader()
    writer.writerows(records)
    path = file_of(tmp_path_factory)
    container, found = items_of(path.with_suffix(".csv"), file.getvalue().encode())
    assert container.coding.dialect.separator == separator
    assert found == list(enumerate(records, 1))


TURNS = st.lists(st.fixed_dictionaries({"role": TEXT, "x": st.none() | TEXT}), max_size=3)
ROWS = st.fixed_dictionaries({"a": VALUE, "n": st.none() | TEXT, "turns": st.none() | TURNS})
TURN = pa.struct([("role", pa.string()), ("x", pa.string())])
SCHEMA = pa.schema([("a", pa.string()), ("n", pa.string()), ("turns", pa.list_(TURN))])


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=6))
def test_tables_of_arrow_are_their_rows_without_nulls(tmp_path_factory, records):
    table = pa.Table.from_pylist(records, SCHEMA)
    file = io.BytesIO()
    pq.write_table(table, file)
    _, found = items_of(file_of(tmp_path_factory), file.getvalue())

    def bare(value):
        if isinstance(value, dict):
            return {key: bare(inner) for key, inner in value.items() if inner is not None}
        return [bare(inner) for inner in value] if isinstance(value, list) else value

    assert [record for _, record in found] == [bare(record) for record in records]


KINDS = ["array", "gzip", "parquet", "csv", "arrow"]
WHOLE = json.dumps([{"prompt": f"a{n}", "completion": "b"} for n in range(40)], indent=1).encode()


def arrow_of(records):
    table, file = pa.Table.from_pylist(records), io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def damaged(content, place, byte, is_cut):
    place %= len(content)
    return content[:place] if is_cut else content[:place] + bytes([byte]) + content[place + 1 :]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans(), st.sampled_from(KINDS))
def test_a_damaged_byte_or_a_cut_makes_no_record_of_anything_else(tmp_path_factory, place, byte, is_cut, kind):
    records = json.loads(WHOLE)
    if kind == "parquet":
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(records), file, write_page_checksum=True)
        whole = file.getvalue()
    elif kind == "arrow":
        whole = arrow_of([{**record, "turns": [{"role": "user"}]} for record in records])
    elif kind == "csv":
        whole = b"prompt,completion\n" + b"".join(b'"a%d",b\n' % n for n in range(40))
    else:
        whole = WHOLE if kind == "array" else zlib.compress(WHOLE, wbits=31)
    content = damaged(whole, place, byte, is_cut)
    assume(content)
    try:
        _, found = items_of(file_of(tmp_path_factory), content)
    except DataError as error:
        assert "\n" not in str(error)
        return
    if kind == "arrow":
        return  # it has no checksums: what a byte changes cannot be told, but it leads nowhere outside of the file
    # One byte can change one value, or spoil the records that it stands between; it makes no others.
    others = [record for _, record in found if type(record) is not str and record not in records]
    assert len(others) <= 1 or {*others[0]} != {*records[0]}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | SIGNS.map(str.encode) | st.lists(SIGNS, max_size=8).map("\n".join).map(str.encode))
def test_any_bytes_are_records_refusals_or_one_sentence(tmp_path_factory, content):
    assume(content)
    try:
        _, found = items_of(file_of(tmp_path_factory), content)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(record, dict | list | str) for _, record in found)
