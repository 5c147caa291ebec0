import gzip
import os
import random

import pytest
from data_files import PAIR, read_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from snaketune.common.digests import file_digest
from snaketune.common.errors import DataError
from snaketune.data.sources import open_source, reading_lines

LINES = [b'{"prompt":"%d","completion":"%d"}\n' % (number, number * 7) for number in range(20_000)]


def lines_of(path, content):
    path.write_bytes(content)
    with reading_lines(path, path.name, file_digest(path)) as lines:
        return list(lines)


def test_a_missing_source_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl does not exist: check the path in data\.sources"):
        open_source(tmp_path / "no.jsonl")


def test_a_folder_a_pipe_and_an_empty_file_are_no_sources(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "empty.jsonl").touch()
    for name, sentence in ((".", "is a folder"), ("pipe.jsonl", "is no regular file"), ("empty.jsonl", "is empty")):
        with pytest.raises(DataError, match=sentence):
            open_source(tmp_path / name)


def test_an_unreadable_source_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be read \(Not a directory\)"):
        open_source(tmp_path / "file" / "x.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_source_without_permission_is_one_sentence(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(PAIR)
    (tmp_path / "x.jsonl").chmod(0)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        open_source(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.jsonl", gzip.compress(PAIR), "gzip data: rename"),
        ("x.jsonl", b"\x28\xb5\x2f\xfd....", "Zstandard"),
        ("x.jsonl", b"PK\x03\x04....", "zip archive"),
        ("x.jsonl", b"PAR1....", "Parquet"),
        ("x.jsonl", PAIR.decode().encode("utf-16"), "UTF-16 text: convert"),
        ("x.jsonl.gz", PAIR, "no gzip data"),
    ],
)
def test_another_kind_of_file_is_named_with_its_cure(tmp_path, name, content, sentence):
    with pytest.raises(DataError, match=sentence):
        read_bytes(tmp_path, content, name=name)


def test_gzip_gives_the_same_lines_also_in_several_members_with_padding(tmp_path):
    plain = lines_of(tmp_path / "x.jsonl", b"".join(LINES))
    members = gzip.compress(b"".join(LINES[:7])) + gzip.compress(b"") + gzip.compress(b"".join(LINES[7:]))
    assert lines_of(tmp_path / "x.jsonl.gz", members + b"\0" * 512) == plain
    assert [content for _, _, content in plain] == LINES


def test_gzip_that_expands_to_many_buffers_is_whole(tmp_path):
    found = lines_of(tmp_path / "x.jsonl.gz", gzip.compress(b"".join(LINES) * 8))
    assert [content for _, _, content in found] == LINES * 8


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=3000), st.integers(1, 400))
def test_gzip_content_is_whole_whatever_it_expands_to(tmp_path_factory, content, times):
    path = tmp_path_factory.mktemp("gz") / "x.jsonl.gz"
    lines = [content.replace(b"\n", b"") + b"x"] * times
    found = lines_of(path, gzip.compress(b"\n".join(lines)))
    assert [line.rstrip(b"\n") for _, _, line in found] == [
        line.removeprefix(b"\xef\xbb\xbf") for line in lines[:1]
    ] + lines[1:]


def test_a_truncated_gzip_is_one_sentence_with_the_line_reached(tmp_path):
    packed = gzip.compress(b"".join(LINES))
    with pytest.raises(
        DataError, match=r"x\.jsonl\.gz: the gzip data are damaged or cut short after line (\d+)"
    ) as caught:
        lines_of(tmp_path / "x.jsonl.gz", packed[: len(packed) // 2])
    assert 5_000 < int(str(caught.value).split("line ")[1].split()[0]) < 15_000


@pytest.mark.parametrize("position", [0.3, 0.9, -6])
def test_a_damaged_gzip_is_one_sentence(tmp_path, position):
    packed = bytearray(gzip.compress(b"".join(LINES)))
    packed[position if position < 0 else int(position * len(packed))] ^= 0x10
    with pytest.raises(DataError, match=r"damaged or cut short after line \d+"):
        lines_of(tmp_path / "x.jsonl.gz", bytes(packed))


def test_garbage_after_a_gzip_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="after line 20000"):
        lines_of(tmp_path / "x.jsonl.gz", gzip.compress(b"".join(LINES)) + b"garbage")


def test_the_offset_leads_to_the_line(tmp_path):
    rng = random.Random(0)
    content = b"\xef\xbb\xbffirst\n" + b"".join(
        rng.choice([b"a\n", b"\r\n", b"bcd\r\n", b" \n", b"e" * 3000 + b"\n"]) for _ in range(500)
    )
    found = lines_of(tmp_path / "x.jsonl", content)
    assert all(content[offset:].startswith(line) for _, offset, line in found)
    assert all(content[:offset].count(b"\n") == number - 1 for number, offset, _ in found)
