import bz2
import functools
import gzip
import io
import lzma
import os
import random
import tarfile
import tracemalloc
import zipfile

import pyarrow
import pytest
from data_files import PAIR, read, read_bytes, source
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snaketune.core.digests import file_digest
from snaketune.core.errors import DataError
from snaketune.data.sources.blocks import blocks_of
from snaketune.data.sources.source_files import open_source

# Without a clock in its header, so that a test has the same name in every process.
gz = functools.partial(gzip.compress, mtime=0)

LINES = [b'{"prompt":"%d","completion":"%d"}\n' % (number, number * 7) for number in range(20_000)]


def lines_of(path, content):
    """Return number, offset and content of each line that is not empty."""
    path.write_bytes(content)
    found = []
    for block in blocks_of(0, path.name, path, file_digest(path)):
        offset = block.offset
        for number, line in enumerate(block.lines(), block.line):
            if line:
                found.append((number, offset, line))
            offset += len(line) + 1
    return found


def zstd(content):
    return pyarrow.compress(content, codec="zstd", asbytes=True)


def archive(content, kind):
    """Return an archive with one file whose name leads out of the folder that it is unpacked in."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("../x.jsonl", content)
    else:
        with tarfile.open(fileobj=file, mode="w") as made:
            entry = tarfile.TarInfo("../x.jsonl")
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def test_a_missing_source_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl does not exist: check the path in data\.sources"):
        open_source(tmp_path / "no.jsonl")


def test_a_folder_a_pipe_and_an_empty_file_are_no_sources(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "empty.jsonl").touch()
    for name, sentence in (
        (".", "is a folder"),
        ("pipe.jsonl", r"is not a regular file \(a named pipe\)"),
        ("empty.jsonl", "is empty"),
    ):
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
        ("x.jsonl", b"PK\x03\x04....", "zip archive that cannot be read"),
        ("x.jsonl", archive(PAIR, "tar"), r"'\.\./x\.jsonl' in it points outside of the archive"),
        ("x.jsonl", archive(PAIR, "zip"), r"'\.\./x\.jsonl' in it points outside of the archive"),
        ("x.jsonl.gz", gz(archive(PAIR, "tar")), r"x\.jsonl\.gz: '\.\./x\.jsonl' in it points outside"),
        ("x.jsonl", b"PAR1....", "the table is damaged or truncated"),
        ("x.jsonl", PAIR.decode().encode("utf-16-le"), "UTF-16 text without a byte order mark: .*UTF-16LE"),
        ("x.jsonl", PAIR.decode().encode("utf-16-be"), "UTF-16 text without a byte order mark: .*UTF-16BE"),
        ("x.jsonl.gz", gz(PAIR.decode().encode("utf-16-le")), "the content of .*x.jsonl.gz is UTF-16"),
        ("x.jsonl", gz(gz(gz(gz(gz(PAIR))))), "packed 5 times"),
        ("x.jsonl", b"7z\xbc\xaf\x27\x1c", "7z archive: unpack"),
        ("x.jsonl", b"Rar!\x1a\x07", "RAR archive: unpack"),
        ("x.jsonl", b"SQLite format 3\0", "SQLite database: write the table"),
        ("x.jsonl", b"%PDF-1.7", "PDF document"),
        ("x.jsonl", b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS, .*`git lfs pull`"),
        ("x.csv", b"<!DOCTYPE html><html></html>", "web page"),
    ],
)
def test_another_kind_of_file_is_named_with_its_cure(tmp_path, name, content, sentence):
    with pytest.raises(DataError, match=sentence):
        read_bytes(tmp_path, content, name=name)


def test_gzip_gives_the_same_lines_also_in_several_members_with_padding(tmp_path):
    plain = lines_of(tmp_path / "x.jsonl", b"".join(LINES))
    members = gz(b"".join(LINES[:7])) + gz(b"") + gz(b"".join(LINES[7:]))
    assert lines_of(tmp_path / "x.jsonl.gz", members + b"\0" * 512) == plain
    assert [content + b"\n" for _, _, content in plain] == LINES


def test_gzip_that_expands_to_many_buffers_is_whole(tmp_path):
    found = lines_of(tmp_path / "x.jsonl.gz", gz(b"".join(LINES) * 8))
    assert [content + b"\n" for _, _, content in found] == LINES * 8


@settings(max_examples=40, deadline=None)
@example(b",", 3)
@given(st.binary(max_size=3000), st.integers(1, 400))
def test_gzip_content_is_whole_whatever_it_expands_to(tmp_path_factory, content, times):
    folder = tmp_path_factory.mktemp("gz")
    lines = [b"{}" + content.replace(b"\n", b"")] * times
    found = lines_of(folder / "x.jsonl.gz", gz(b"\n".join(lines)))
    assert found == lines_of(folder / "x.jsonl", b"\n".join(lines))
    if not lines[0].startswith(b"{},"):  # objects with commas between them are not lines
        assert [line for _, _, line in found] == lines


def test_a_truncated_gzip_is_one_sentence_with_the_line_reached(tmp_path):
    packed = gz(b"".join(LINES))
    with pytest.raises(
        DataError, match=r"x\.jsonl\.gz: the compressed data are damaged or truncated after line (\d+)"
    ) as caught:
        lines_of(tmp_path / "x.jsonl.gz", packed[: len(packed) // 2])
    assert 5_000 < int(str(caught.value).split("line ")[1].split()[0]) < 15_000


def test_zstandard_gives_the_same_lines_also_in_several_frames(tmp_path):
    plain = lines_of(tmp_path / "x.jsonl", b"".join(LINES))
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0note"
    frames = skipped + zstd(b"".join(LINES[:7])) + zstd(b"") + skipped + zstd(b"".join(LINES[7:]))
    assert lines_of(tmp_path / "x.jsonl.zst", frames) == plain


@pytest.mark.parametrize("size", [0.1, 0.5, 0.99])
def test_a_truncated_zstandard_is_one_sentence_with_the_line_reached(tmp_path, size):
    # Levels of compression that are easily reached would leave too few blocks for a file of this size.
    lines = b"".join(b'{"text":"%x"}\n' % random.Random(n).getrandbits(400) for n in range(20_000))
    packed = zstd(lines)
    with pytest.raises(DataError, match=r"damaged or truncated after line (\d+)") as caught:
        lines_of(tmp_path / "x.jsonl.zst", packed[: int(size * len(packed))])
    reached = int(str(caught.value).split("line ")[1].split()[0])
    assert (size - 0.2) * 20_000 < reached < (size + 0.05) * 20_000


def test_a_damaged_zstandard_is_one_sentence(tmp_path):
    packed = bytearray(zstd(b"".join(LINES)))
    packed[len(packed) // 2 :] = b"x" * 5000
    with pytest.raises(DataError, match=r"damaged or truncated after line \d+"):
        lines_of(tmp_path / "x.jsonl.zst", bytes(packed))


@pytest.mark.parametrize("pack", [gz, zstd, bz2.compress, functools.partial(lzma.compress, preset=1)])
def test_a_bomb_is_refused_by_its_ratio_in_bounded_memory(tmp_path, pack):
    bomb = pack(PAIR + b"\n" + b" " * (32 << 20))
    path = tmp_path / "x.jsonl"
    path.write_bytes(bomb * 3 + pack(PAIR))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"unpack to more than \d+ MiB, over 250 times as much: if that is right"):
        read(tmp_path, source(path), max_bad_fraction=1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 << 20


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("x.jsonl", gz(PAIR)),
        ("x.jsonl", zstd(PAIR)),
        ("x.jsonl.gz", PAIR),
        ("x.jsonl.gz", zstd(PAIR)),
        ("x.zst", zstd(gz(PAIR))),
        ("x", bz2.compress(PAIR) + bz2.compress(b"")),
        ("x", lzma.compress(PAIR)),
        ("x", PAIR.decode().encode("utf-16")),
        ("x", b"\xfe\xff" + PAIR.decode().encode("utf-16-be")),
        ("x", PAIR.decode().encode("utf-32")),
        ("x", b"\xef\xbb\xbf" + PAIR),
        ("x", gz(PAIR.decode().encode("utf-16"))),
    ],
)
def test_what_is_around_the_lines_is_found_by_content_whatever_the_name(tmp_path, name, packed):
    found = read_bytes(tmp_path, packed, name=name)
    assert [record["line"] for record in found.records] == [1]


@pytest.mark.parametrize("position", [0.3, 0.9, -6])
def test_a_damaged_gzip_is_one_sentence(tmp_path, position):
    packed = bytearray(gz(b"".join(LINES)))
    packed[position if position < 0 else int(position * len(packed))] ^= 0x10
    with pytest.raises(DataError, match=r"damaged or truncated after line \d+"):
        lines_of(tmp_path / "x.jsonl.gz", bytes(packed))


def test_garbage_after_a_gzip_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="after line 20000"):
        lines_of(tmp_path / "x.jsonl.gz", gz(b"".join(LINES)) + b"garbage")


def test_the_offset_leads_to_the_line(tmp_path):
    rng = random.Random(0)
    content = b"\xef\xbb\xbffirst\n" + b"".join(
        rng.choice([b"a\n", b"\r\n", b"bcd\r\n", b" \n", b"e" * 3000 + b"\n"]) for _ in range(500)
    )
    found = lines_of(tmp_path / "x.jsonl", content)
    assert all(content[offset:].startswith(line) for _, offset, line in found)
    assert all(content[:offset].count(b"\n") == number - 1 for number, offset, _ in found)


@pytest.mark.parametrize("length", [(1 << 18) - 1, 1 << 18, (1 << 18) + 1, 5 << 18])
def test_blocks_end_where_lines_do_whatever_their_length(tmp_path, length):
    lines = [b"a" * length, b"", b"b", b"c" * (2 * length), b"d" * 7, b"e" * length]
    found = lines_of(tmp_path / "x.jsonl", b"\n".join(lines))
    assert [(number, line) for number, _, line in found] == [(n, line) for n, line in enumerate(lines, 1) if line]
    assert [offset for _, offset, _ in found] == [
        sum(len(line) + 1 for line in lines[:n]) for n, line in enumerate(lines) if line
    ]


def test_lines_after_overlong_ones_keep_number_and_offset(tmp_path):
    long = b"x" * (17 << 20)
    content = b"a\n" + long + b"\nb\n" + long + b"\n" + long + b"\nc\n" + long
    found = lines_of(tmp_path / "x.jsonl", content)
    assert [(number, line[:1], content[offset : offset + 1]) for number, offset, line in found] == [
        (1, b"a", b"a"), (2, b"x", b"x"), (3, b"b", b"b"), (4, b"x", b"x"), (5, b"x", b"x"), (6, b"c", b"c"),
        (7, b"x", b"x"),
    ]  # fmt: skip


def test_what_was_read_for_the_blocks_adds_up_to_the_file(tmp_path):
    for name, content in (("x.jsonl", b"".join(LINES)), ("x.jsonl.gz", gz(b"".join(LINES)))):
        path = tmp_path / name
        path.write_bytes(content)
        assert sum(block.consumed for block in blocks_of(0, name, path, file_digest(path))) == len(content)
