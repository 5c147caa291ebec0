import random
import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from data_files import canonical
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_shingles import plain, similarity

from snaketune.data.records.canonical_records import count_lines, line_ranges
from snaketune.data.similarity import near_dedupe
from snaketune.data.similarity.bitmaps import bitmaps, least_difference, may_be_similar
from snaketune.data.similarity.minhash import SimilarityCriteria, minhash, near_text, sketch_ranges
from snaketune.data.similarity.near_dedupe import Clusters, Store, near_duplicates
from snaketune.data.similarity.shingles import shingled

VOCABULARY = [f"{one}{two}" for one in "bcdfghklmnprst" for two in ("a", "en", "ix", "oru", "ull")]


def find(path, criteria=None, range_bytes=1 << 20, threads=1, skip=()):
    """Return what stands for each record and the similarities."""
    folder = path.parent / f"scratch-{range_bytes}-{threads}-{random.random()}"
    folder.mkdir()
    ranges = line_ranges(path, range_bytes)
    counts = [count_lines(path, span) for span in ranges]
    out = np.zeros(sum(counts), bool)
    out[list(skip)] = True
    parts = np.split(out, np.cumsum(counts)[:-1])
    criteria = criteria or SimilarityCriteria()
    sketches = sketch_ranges(path, ranges, parts, criteria, folder, threads)
    found = near_duplicates(Store(folder, sketches, criteria), len(out))
    return found.representative, found.similarity


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="only Linux says which pages are in memory")
def test_keys_do_not_stay_in_memory(tmp_path):
    rows, bands = 1 << 16, SimilarityCriteria().banding[0]
    arrays = {
        "owners": np.arange(rows),
        "lengths": np.zeros(rows, np.int64),
        "shingles": np.zeros(0, np.uint64),
        "sketches": np.zeros((rows, 1), np.uint8),
        "bitmaps": np.zeros((rows, 1), np.uint64),
        "wholes": np.zeros((rows, 2), np.uint64),
        "keys": np.arange(bands * rows, dtype=np.uint32).reshape(bands, rows),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"part.{name}.npy", array)
    store = Store(tmp_path, [tmp_path / "part"], SimilarityCriteria())
    near_duplicates(store, rows)
    mapping = Path("/proc/self/smaps").read_text().partition("part.keys.npy")[2]
    assert int(re.search(r"Rss: *([0-9]+) kB", mapping)[1]) < arrays["keys"].nbytes / 1024 / 10


def edited(text, rng):
    tokens = text.split()
    for _ in range(rng.randrange(1, 1 + len(tokens) // 12)):
        tokens[rng.randrange(len(tokens))] = rng.choice(VOCABULARY)
    return " ".join(tokens[: len(tokens) - rng.randrange(4)])


def corpus_of(records, seed=0):
    """Texts of which about a third are edited copies of earlier ones; some are Chinese, some short."""
    rng = random.Random(seed)
    texts: list[str] = []
    while len(texts) < records:
        if texts and rng.random() < 0.35:
            copied = rng.choice(texts)
            texts.append(
                edited(copied, rng) if " " in copied and len(copied.split()) > 25 else copied + rng.choice("!.x")
            )
        elif rng.random() < 0.1:
            texts.append("".join(chr(0x4E00 + int(rng.expovariate(0.01))) for _ in range(rng.randrange(5, 200))))
        else:
            texts.append(" ".join(rng.choices(VOCABULARY, k=max(3, int(rng.lognormvariate(3.8, 0.8))))))
    return texts


def alike(texts, threshold):
    """All pairs that are similar enough, by comparing the plain sets of each two texts."""
    sets = [plain(text) for text in texts]
    pairs = {}
    for x, y in combinations(range(len(texts)), 2):
        for kind in sets[x].keys() & sets[y].keys():
            one, other = sets[x][kind], sets[y][kind]
            if threshold * max(len(one), len(other)) <= min(len(one), len(other)):
                value = len(one & other) / len(one | other)
                if value >= threshold:
                    pairs[x, y] = max(value, pairs.get((x, y), 0))
    return pairs


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    texts = corpus_of(2000)
    return texts, canonical(tmp_path_factory.mktemp("near") / "r", *texts)


@pytest.fixture(scope="module")
def truth(seeded):
    return alike(seeded[0], 0.8)


def test_every_removal_is_right_and_nearly_everything_is_found(seeded, truth):
    representative, values = find(seeded[1])
    removed = np.flatnonzero(representative != np.arange(2000))
    assert len(removed) > 250
    for record in removed.tolist():
        assert truth[int(representative[record]), record] == values[record]
    left = [pair for pair in truth if (representative[list(pair)] == pair).all()]
    assert len(left) <= 0.01 * len(removed)


def test_the_first_of_each_cluster_stays_and_stands_for_the_others(seeded):
    representative, values = find(seeded[1])
    assert (representative <= np.arange(2000)).all()
    assert (representative[representative] == representative).all()
    assert (values[representative == np.arange(2000)] == 1).all()


def test_processes_and_ranges_change_nothing(seeded):
    _, path = seeded
    size = path.stat().st_size
    expected = find(path)
    for range_bytes, threads in ((size // 7, 1), (size // 2, 2), (size // 5, 4)):
        found = find(path, range_bytes=range_bytes, threads=threads)
        assert [column.tobytes() for column in found] == [column.tobytes() for column in expected]
    assert len(line_ranges(path, size // 7)) >= 7


def test_little_memory_for_pairs_finds_as_much(seeded, truth, monkeypatch):
    monkeypatch.setattr(near_dedupe, "BUFFERED_PAIRS", 10)
    representative, _ = find(seeded[1])
    left = [pair for pair in truth if (representative[list(pair)] == pair).all()]
    assert len(left) <= 0.01 * np.count_nonzero(representative != np.arange(2000))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.7, 0.8, 0.95, 1.0]))
def test_small_sets_are_cleaned_completely(tmp_path_factory, seed, threshold):
    texts = corpus_of(40, seed)
    path = canonical(tmp_path_factory.mktemp("near") / "r", *texts)
    representative, values = find(path, SimilarityCriteria(threshold, 250))
    pairs = {pair: similarity(*(texts[at] for at in pair)) for pair in combinations(range(40), 2)}
    for record in np.flatnonzero(representative != np.arange(40)).tolist():
        assert values[record] >= threshold
    # At another threshold other lengths count as short, so the plain definition is that of 0.8 only.
    if threshold == 0.8:
        assert not [
            pair for pair, value in pairs.items() if value >= 0.8 and (representative[list(pair)] == pair).all()
        ]


def test_records_that_are_out_already_are_not_looked_at(tmp_path):
    text = " ".join(VOCABULARY[:40])
    path = canonical(tmp_path / "r", text, f"{text} a", f"{text} b", "other")
    assert find(path)[0].tolist() == [0, 0, 0, 3]
    assert find(path, skip=[0])[0].tolist() == [0, 1, 1, 3]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("".join(chr(0x4E00 + 37 * number) for number in range(90)), "{}了"),
        ("".join(chr(0x3042 + number % 80) for number in range(70)) + "漢字かな", "{}です"),
        (" ".join(chr(0xAC00 + 91 * number) * 2 for number in range(40)), "{} 뷁"),
        ("Which river runs through the capital of that small country?", "{}!"),
        ("Hi there", "HI \nthere "),
    ],
)
def test_scripts_without_spaces_and_short_texts_are_found(tmp_path, one, other):
    path = canonical(tmp_path / "r", one, "something else", other.format(one))
    assert find(path)[0].tolist() == [0, 1, 0]


def test_a_common_system_prompt_makes_no_duplicates(tmp_path):
    system = ("system", " ".join(VOCABULARY))
    records = [
        [system, ("user", f"how far is {name} from here"), ("assistant", answer)]
        for name, answer in (("Rome", "a day on foot"), ("Lima", "nobody ever measured that"))
    ]
    assert find(canonical(tmp_path / "r", *records))[0].tolist() == [0, 1]
    assert near_text(records[0]) == "how far is Rome from here\na day on foot"


def test_a_large_cluster_leaves_one(tmp_path):
    base = [f"word{number}" for number in range(60)]
    texts = [" ".join([*base[: number % 57], f"new{number}", *base[number % 57 + 1 :]]) for number in range(300)]
    representative, _ = find(canonical(tmp_path / "r", *texts))
    left = np.flatnonzero(representative == np.arange(300)).tolist()
    sets = [plain(texts[record])["words"] for record in left]
    assert all(len(one & other) / len(one | other) < 0.8 for one, other in combinations(sets, 2))
    assert len(left) < 10


def test_what_was_like_a_removed_record_only_stays():
    clusters = Clusters(4)
    clusters.learn(np.array([1]), np.array([2]), np.array([0.9]))
    assert clusters.representative.tolist() == [0, 1, 1, 3]
    clusters.learn(np.array([0]), np.array([1]), np.array([0.8]))
    assert clusters.representative.tolist() == [0, 0, 2, 3]
    assert clusters.similarity.tolist() == [1, 0.8, 1, 1]


@pytest.mark.parametrize(("threshold", "banding"), [(0.8, (25, 5)), (0.5, (62, 2)), (0.9, (15, 8)), (1.0, (7, 16))])
def test_bands_are_chosen_for_the_threshold(threshold, banding):
    assert SimilarityCriteria(threshold).banding == banding
    bands, rows = banding
    assert (1 - threshold**rows) ** bands < 0.001


def test_signatures_estimate_similarity():
    rng = random.Random(5)
    common = [" ".join(rng.choices(VOCABULARY, k=5)) for _ in range(200)]
    one, other = " ".join(common[:150]), " ".join(common[50:])
    signatures = minhash(shingled([one, other], 5, 0.8), 4000)
    assert abs((signatures[:, 0] == signatures[:, 1]).mean() - similarity(one, other)) < 0.04


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6))
def test_bitmaps_never_overstate_a_difference(seed):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(VOCABULARY, k=rng.randrange(1, 4000)))]
    texts.append(edited(texts[0], rng) if rng.random() < 0.8 and len(texts[0]) > 200 else "another " + texts[0][:50])
    rows = shingled(texts, 5, 0.8)
    sets = [set(rows.hashes[start:end].tolist()) for start, end in pairwise(rows.offsets.tolist())]
    maps = bitmaps(rows)
    for one, other in combinations(range(len(rows)), 2):
        least = int(least_difference(maps[[one]], maps[[other]])[0])
        assert least <= len(sets[one] ^ sets[other])
    assert least_difference(maps, maps).tolist() == [0] * len(rows)


def test_bitmaps_tell_texts_apart_that_are_not_similar_enough():
    rng = random.Random(1)
    common = " ".join(rng.choices(VOCABULARY, k=150))
    rows = shingled([f"{common} {' '.join(rng.choices(VOCABULARY, k=40))}" for _ in range(2)], 5, 0.8)
    maps, sizes = bitmaps(rows), np.diff(rows.offsets)
    assert may_be_similar(maps[:1], maps[1:], sizes[:1] + sizes[1:], 0.8).tolist() == [False]
    assert may_be_similar(maps[:1], maps[1:], sizes[:1] + sizes[1:], 0.5).tolist() == [True]


FUNCTION = """def total(values, start=0):
    result = start
    for value in values:
        if value is None:
            continue
        result += value
    print("the sum of all the given values is", result)
    return result
"""


@pytest.mark.parametrize(
    "other",
    [
        FUNCTION.replace("    return", "        return"),
        FUNCTION.replace("    ", "\t"),
        FUNCTION.replace("        result +=", "    result +="),
        f"  {FUNCTION}",
        f"{FUNCTION * 4}{FUNCTION.replace('    return', '        return')}",
    ],
)
@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_code_that_differs_in_indentation_alone_is_no_duplicate(tmp_path, other, threshold):
    one = FUNCTION * 5 if len(other) > 2 * len(FUNCTION) else FUNCTION
    asked = [[("user", "Write it."), ("assistant", text)] for text in (one, other, f"{one}# end")]
    assert find(canonical(tmp_path / "r", *asked), SimilarityCriteria(threshold))[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "other",
    [FUNCTION.replace("\n", " \n\n"), FUNCTION.replace("= ", "=  "), FUNCTION.replace("\n", "\r\n"), FUNCTION.upper()],
)
def test_other_white_space_of_code_is_overlooked(tmp_path, other):
    path = canonical(tmp_path / "r", FUNCTION, other)
    assert find(path)[0].tolist() == [0, 0]


def test_space_before_a_turn_of_one_line_is_no_indentation(tmp_path):
    records = [[("user", "How far?"), ("assistant", f"{space}a day on foot")] for space in ("", "  ")]
    assert find(canonical(tmp_path / "r", *records))[0].tolist() == [0, 0]
