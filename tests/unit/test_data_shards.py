"""Any number of shards makes the bytes that one job makes."""

import gzip
import io
import json
import random
from pathlib import Path

import pytest
from data_files import canonical, source
from data_tokenizers import QWEN, make_folder

from snaketune.core.errors import DataError
from snaketune.data.records.canonical_records import line_ranges
from snaketune.data.records.reading import read_records
from snaketune.data.records.reading_policy import ReadingPolicy
from snaketune.data.records.reading_shard import read_shard
from snaketune.data.shards import Shard, names_of, read_parts, write_part
from snaketune.data.similarity import dedupe, dedupe_shard
from snaketune.data.similarity.dedupe import DedupeParts, DedupePolicy, plan_removal
from snaketune.data.similarity.dedupe_shard import key_shard, sketch_shard
from snaketune.data.sources import blocks
from snaketune.data.tokens import chunks
from snaketune.data.tokens.chunk_tokenizing import Recipe
from snaketune.data.tokens.tokenizing import tokenize_shard, tokenize_splits

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


def test_a_shard_reads_nothing_behind_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 512)
    content = b'{"text":"a line of some length"}\n' * 400
    one, place = source(tmp_path / "a.jsonl", content)
    place.write_bytes(content[:-3000] + b"\xff" * 3000)  # what comes behind changed: the stage itself notices that
    read_shard([one], lambda some: [place], ReadingPolicy(), Shard(1, 4), tmp_path / "1.part")
    with pytest.raises(DataError, match="changed"):
        read_shard([one], lambda some: [place], ReadingPolicy(), Shard(4, 4), tmp_path / "4.part")


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
    """Return the bytes of records and quarantine, and the facts, read in so many shards."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 512)
    parts = []
    for shard in all_shards(shards):
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
