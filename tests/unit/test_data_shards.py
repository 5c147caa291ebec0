"""Any number of shards makes the bytes that one job makes."""

import gzip
import io
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from data_files import canonical, source
from data_tokenizers import QWEN, make_folder

from snaketune.core.errors import DataError
from snaketune.data.records import line_reading
from snaketune.data.records.canonical_records import line_ranges
from snaketune.data.records.reading import read_records
from snaketune.data.records.reading_policy import ReadingPolicy
from snaketune.data.records.reading_shard import read_shard
from snaketune.data.records.shard_parts import spans_of
from snaketune.data.shards import Shard, names_of, read_parts, write_part
from snaketune.data.similarity import dedupe, dedupe_shard
from snaketune.data.similarity.dedupe import DedupeParts, DedupePolicy, plan_removal
from snaketune.data.similarity.dedupe_shard import key_shard, sketch_shard
from snaketune.data.sources import blocks, line_chunks
from snaketune.data.tokens import chunks
from snaketune.data.tokens.chunk_tokenizing import Recipe
from snaketune.data.tokens.tokenizing import tokenize_shard, tokenize_splits
from snaketune.storage.stage_facts import facts_of, index_of, sources_of
from snaketune.storage.staging import stage_sources

COUNTS = [2, 7]


def all_shards(count):
    return [Shard.named(name) for name in names_of(count)]


def test_each_piece_belongs_to_exactly_one_shard():
    for count in (1, 2, 7, 20):
        owners = [[shard.index for shard in all_shards(count) if shard.holds(start, 140)] for start in range(141)]
        assert all(len(owner) == 1 for owner in owners[:140]) or count == 1
        assert owners == sorted(owners)
    assert names_of(1) == []


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_shard_looks_at_its_own_sources_alone(tmp_path, count):
    lines = [b"".join(b'{"text":"%d of %d"}\n' % (line, number) for line in range(20)) for number in range(9)]
    sources = [source(tmp_path / f"{number}.jsonl", content)[0] for number, content in enumerate(lines)]
    looked_at = []
    for shard in all_shards(count):

        def places(some, shard=shard):
            looked_at.append([Path(one.path).name for one in some])
            return [Path(one.path) for one in some]

        read_shard(sources, places, ReadingPolicy(), shard, tmp_path / f"{shard.index}.part")
    assert all(len(names) <= 9 // count + 2 for names in looked_at), looked_at
    assert {name for names in looked_at for name in names} == {f"{number}.jsonl" for number in range(9)}


@pytest.fixture
def small_chunks(monkeypatch):
    """Files of some kilobytes have an index, as those above 64 MiB do."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 512)
    monkeypatch.setattr(line_chunks, "CHUNK_BYTES", 1000)


def indexed(path, content):
    """A source with the index of its lines, and its place."""
    one, place = source(path, content)
    return replace(one, chunks=tuple(line_chunks.chunks_of(one.path, place, one.bytes, one.digest))), place


def test_a_shard_reads_its_own_bytes_alone(tmp_path, small_chunks):
    content = b'{"text":"a line of some length"}\n' * 400
    one, place = indexed(tmp_path / "a.jsonl", content)
    spans = [spans_of([one], shard)[0] for shard in all_shards(4)]
    assert [span.first for span in spans[1:]] == [span.stop for span in spans[:-1]]
    here = one.chunks[spans[2].first].offset
    # Another shard's bytes changed, which that one notices.
    place.write_bytes(content[: here - 40] + b"\xff" * 40 + content[here:])
    for number, shard in enumerate(all_shards(4)):
        arguments = ([one], lambda some: [*some] and pytest.fail("staged"), ReadingPolicy(max_bad_fraction=1), shard)
        if number == 1:
            with pytest.raises(DataError, match="changed"):
                read_shard(*arguments, tmp_path / "part")
        else:
            read_shard(*arguments, tmp_path / "part")


LINES = {
    "ends as usual": b'{"text":"%d"}\n',
    "carriage returns": b'{"text":"%d"}\r\n',
    "blank lines": b'{"text":"%d"}\n\n \n',
    "characters of several bytes": '{"text":"%d €äß漢字🙂"}\n'.encode(),
    "long lines": b'{"text":"%d ' + b"long " * 150 + b'"}\n',
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_large_file_of_lines_is_read_in_ranges_as_in_one_piece(tmp_path, monkeypatch, small_chunks, name, mark):
    lines = [LINES[name] % number for number in range(400)]
    lines[5::40] = [b"oops %d\n" % number for number in range(len(lines[5::40]))]
    content = mark + b"".join(lines).rstrip()
    one, place = indexed(tmp_path / "a.jsonl", content)
    small = source(tmp_path / "b.jsonl", b'{"text":"of its own"}')
    assert len(one.chunks) > 4
    plain = [(replace(one, chunks=()), place), small]
    expected = reading(tmp_path, plain, 0, monkeypatch)
    for shards in (1, 2, 5):
        assert reading(tmp_path, [(one, place), small], shards, monkeypatch) == expected
    assert (expected[2]["quarantined"], expected[2]["records"]) == (10, 391)


def test_an_overlong_line_at_the_edge_of_a_range_stays_one_line(tmp_path, monkeypatch, small_chunks):
    for module in (blocks, line_reading):
        monkeypatch.setattr(module, "LONGEST_LINE", 1500)
    lines = [b'{"text":"%d"}\n' % number for number in range(300)]
    lines[100:100] = [b'{"text":"' + b"x" * 5000 + b'"}\n'] * 2
    one, place = indexed(tmp_path / "a.jsonl", b"".join(lines))
    expected = reading(tmp_path, [(replace(one, chunks=()), place)], 0, monkeypatch)
    assert expected[2]["quarantined"] == 2
    for shards in (3, 9):
        assert reading(tmp_path, [(one, place)], shards, monkeypatch) == expected


OTHER_FILES = {
    "a.jsonl.gz": gzip.compress(b'{"text":"a"}\n' * 4000),
    "a.csv": b"text\n" + b"a\n" * 4000,
    "a.json": b"[" + b",".join([b'{"text":"a"}'] * 4000) + b"]",
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_have_no_index_and_go_to_one_shard(tmp_path, small_chunks, name):
    one, _ = indexed(tmp_path / name, OTHER_FILES[name])
    assert not one.chunks
    assert [len(spans_of([one], shard)) for shard in all_shards(4)] == [1, 0, 0, 0]


def test_an_index_goes_with_the_staged_sources_and_into_no_manifest(tmp_path, small_chunks):
    place = tmp_path / "a.jsonl"
    one, _ = indexed(place, b'{"text":"a line"}\n' * 400)
    for scratch in (None, tmp_path / "scratch"):
        (staged,) = stage_sources([{"path": str(place), "digest": one.digest}], scratch, tmp_path / "work")
        assert staged.chunks == one.chunks != ()
        facts = facts_of([staged])
        assert "chunks" not in json.dumps(facts)
        assert sources_of(json.loads(json.dumps({**facts, **index_of([staged])}))) == [staged]
    assert index_of([source(tmp_path / "b.jsonl", b"{}\n")[0]]) == {}


def test_parts_that_leave_something_out_are_refused(tmp_path, monkeypatch, small_chunks):
    sources = [
        indexed(tmp_path / "a.jsonl", b'{"text":"a line"}\n' * 400),
        source(tmp_path / "b.jsonl", b'{"text":"b"}'),
    ]
    reading(tmp_path, sources, 3, monkeypatch)
    made = [tmp_path / f"{number}.part" for number in (1, 2, 3)]
    for parts in (made[:2], made[1:], [made[0], made[2]], [*made, made[2]], [made[0], *made]):
        with pytest.raises(DataError, match="do not match"), open(tmp_path / "q", "w+b") as quarantine:
            read_records(sources, ReadingPolicy(), io.BytesIO(), quarantine, tmp_path / "kept", parts=parts)


def test_a_damaged_part_is_one_sentence(tmp_path):
    part = tmp_path / "1-of-2.part"
    write_part(part, [b"x" * 100, 7])
    assert list(read_parts([part])) == [b"x" * 100, 7]
    part.write_bytes(part.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"1-of-2\.part was damaged"):
        list(read_parts([part]))


def places_of(sources):
    where = {one.path: place for one, place in sources}
    return lambda some: [where[one.path] for one in some]


def reading(folder, sources, shards, monkeypatch):
    """Return the bytes of records and quarantine, and the facts, read in so many shards; 0 for no shard's help."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 512)
    parts = []
    for shard in [Shard(number, shards) for number in range(1, shards + 1)]:
        parts.append(folder / f"{shard.index}.part")
        given = [one for one, _ in sources]
        read_shard(given, places_of(sources), ReadingPolicy(max_bad_fraction=1), shard, parts[-1])
    records = io.BytesIO()
    with open(folder / "quarantine", "w+b") as quarantine:
        facts = read_records(
            sources, ReadingPolicy(max_bad_fraction=1), records, quarantine, folder / "kept", parts=parts
        )
        quarantine.seek(0)
        return records.getvalue(), quarantine.read(), facts


@pytest.mark.parametrize("shards", COUNTS)
def test_reading(tmp_path, monkeypatch, shards):
    lines = [json.dumps({"prompt": f"p{n}", "completion": "c" * (n % 50)}).encode() for n in range(300)]
    lines[17] = lines[200] = b"oops"
    packed = gzip.compress(b"\n".join(lines[:100]), mtime=0)
    texts = b"\n".join(b'{"text":"%d"}' % number for number in range(90))
    sources = [
        source(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + b"\n".join(lines)),
        source(tmp_path / "b.jsonl.gz", packed),
        source(tmp_path / "c.jsonl", texts),
    ]
    expected = reading(tmp_path, sources, 1, monkeypatch)
    assert expected[2]["quarantined"] > 3
    assert reading(tmp_path, sources, shards, monkeypatch) == expected


def planning(folder, path, policy, shards):
    """Return the plan of removal of so many shards as comparable values."""
    folder = folder / f"{shards}-{policy.exact}-{policy.near}"
    folder.mkdir()
    keys, sketches = [], []
    for shard in all_shards(shards):
        keys.append(folder / f"{shard.index}.part")
        key_shard(path, policy, shard, keys[-1])
    for shard in all_shards(shards) if policy.near else []:
        sketches.append(folder / f"sketches{shard.index}")
        sketches[-1].mkdir()
        sketch_shard(path, policy, shard, keys, sketches[-1])
    (folder / "scratch").mkdir()
    plan = plan_removal(path, policy, folder / "scratch", parts=DedupeParts(keys, sketches))
    return plan.representative.tolist(), plan.similarity.tolist(), plan.near.tolist(), plan.facts()


@pytest.mark.parametrize("shards", COUNTS)
@pytest.mark.parametrize("policy", [{}, {"near": False}, {"exact": False}, {"ignore_case": True}])
def test_deduplicating(tmp_path, monkeypatch, shards, policy):
    rng = random.Random(3)
    texts = [" ".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=80)) for _ in range(150)]
    texts += [f"{text} z" if number % 2 else text.upper() for number, text in enumerate(texts)]
    texts += texts[::3]
    rng.shuffle(texts)
    path, policy = canonical(tmp_path / "records.jsonl", *texts), DedupePolicy(**policy)
    for module in (dedupe, dedupe_shard):
        monkeypatch.setattr(module, "line_ranges", lambda path: line_ranges(path, 4000))
    expected = planning(tmp_path, path, policy, 1)
    assert expected[3]["removed"] > 40
    assert planning(tmp_path, path, policy, shards) == expected


@pytest.mark.parametrize("shards", COUNTS)
def test_tokenising(tmp_path, monkeypatch, shards):
    monkeypatch.setattr(chunks, "CHUNK_LINES", 9)
    talks = [[("user", f"{n}?"), ("assistant", "a" * (n % 13) or "<|eos|>")] for n in range(120)]
    train = canonical(tmp_path / "train.jsonl", *talks)
    held = canonical(tmp_path / "eval.jsonl", *talks[:25])
    folder = make_folder(tmp_path / "model")
    recipe = Recipe(str(folder), QWEN, True)
    results = []
    for count in (1, shards):
        parts = []
        for shard in all_shards(count):
            parts.append(tmp_path / f"{shard.index}.part")
            tokenize_shard({"train": train, "eval": held}, recipe, shard, parts[-1])
        out, dropped = tmp_path / f"out{count}", io.BytesIO()
        files = {"train": (str(train), str(out / "train")), "eval": (str(held), str(out / "eval"))}
        facts = tokenize_splits(files, recipe, dropped, 1, parts)
        written = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        results.append((facts, dropped.getvalue(), written))
    assert results[0][0]["splits"]["train"]["dropped"]
    assert results[0] == results[1]
