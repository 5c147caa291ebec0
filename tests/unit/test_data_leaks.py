import gzip
import io
import random
import tracemalloc
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from data_files import canonical
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_near_dedupe import VOCABULARY, corpus_of
from test_data_shingles import plain

from snaketune.core.digests import file_digest
from snaketune.core.errors import DataError
from snaketune.data.records.canonical_records import line_ranges
from snaketune.data.similarity import hash_index, overlap
from snaketune.data.similarity import leaks as leaking
from snaketune.data.similarity.leak_check import check_sides
from snaketune.data.similarity.leaks import Side, find_leaks
from snaketune.data.similarity.removal import LineIndex
from snaketune.data.similarity.shingles import BATCH_TEXTS, shingled
from snaketune.data.split.split_plan import SplitPolicy, plan_sides, write_leaks


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def asked(question, answer):
    return [("user", question), ("assistant", answer)]


def sentence(rng, words):
    return " ".join(rng.choices(VOCABULARY, k=words))


def plan(path, folder, evaluations=(), threads=1, **policy):
    policy = SplitPolicy(**{"test_size": 0.2, "seed": 0, "max_similarity": 0.5, **policy})
    index = LineIndex.read(path)
    found = plan_sides(path, policy, evaluations, index, folder, threads)
    leaks = io.BytesIO()
    write_leaks(found, path, evaluations, index, leaks)
    return found, [orjson.loads(line) for line in leaks.getvalue().splitlines()], found.facts(policy, index.sources)


def evaluation(path, content):
    path.write_bytes(content)
    return {"path": str(path), "digest": file_digest(path)}


def similarity(one, other, threshold):
    a, b = plain(one, threshold=threshold), plain(other, threshold=threshold)
    return max((len(a[kind] & b[kind]) / len(a[kind] | b[kind]) for kind in a.keys() & b.keys()), default=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.5, 0.8]), st.booleans(), st.sampled_from([0, 40, 256]))
def test_the_search_finds_every_pair_and_no_other(tmp_path_factory, seed, threshold, small_pieces, table_hits):
    folder = tmp_path_factory.mktemp("leaks")
    texts = [*corpus_of(60, seed), "a a a a a a", "b " * 50, ""]
    path = canonical(folder / "r", *texts)
    held_out = np.random.default_rng(seed).random(len(texts)) < 0.4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "TABLE_HITS", table_hits)
        if small_pieces:
            patch.setattr(hash_index, "HITS", 3)
            patch.setattr(overlap, "BLOCK_SHINGLES", 100)
            patch.setattr(overlap, "BITMAP_PAIRS", 9)
            patch.setattr(overlap, "EXACT_FREQUENCY", 2)
            patch.setattr(leaking, "LISTED_AT_ONCE", 5)
        leaks = find_leaks(Side(path, ~held_out), Side(path, held_out), threshold, folder)
    expected = {}
    for train in np.flatnonzero(~held_out).tolist():
        found = {
            other: similarity(texts[train], texts[other], threshold) for other in np.flatnonzero(held_out).tolist()
        }
        best = max(found.values(), default=0)
        if best >= threshold:
            expected[train] = (min(other for other, value in found.items() if value == best), best)
    rows = zip(leaks.train.tolist(), leaks.evaluation.tolist(), leaks.similarity.tolist(), strict=True)
    assert {train: (other, value) for train, other, value in rows} == expected


def test_training_records_like_held_out_ones_are_dropped_counted_and_listed(tmp_path, folder):
    rng = random.Random(1)
    base = [sentence(rng, 60) for _ in range(100)]
    records = [asked(f"{number} {text}", "yes") for number, text in enumerate(base)]
    records += [asked(f"again {number} {text} {sentence(rng, 25)}", "yes") for number, text in enumerate(base)]
    path = canonical(tmp_path / "r", *records)
    found, listed, facts = plan(path, folder)
    assert facts["dropped_similar"] == len(listed) == np.count_nonzero(found.side == -1) > 10
    assert facts["train"] + facts["eval"] + facts["dropped_similar"] == 200
    for entry in listed:
        one, other = entry["removed"]["line"], entry["eval"]["line"]
        assert entry["reason"] == "similar"
        assert found.side[other - 1] == 1
        assert abs(one - other) == 100
        assert entry["similarity"] >= 0.5
        assert entry["text"] != entry["eval_text"]
    assert facts["leaked_before"]["0.5"] == len({entry["eval"]["line"] for entry in listed})
    assert facts["leaked_before"]["1"] == 0


def test_growth_moves_no_record_to_the_other_side(tmp_path, folder):
    texts = [asked(f"{number} {text}", "x") for number, text in enumerate(corpus_of(1000, 4))]
    sides = []
    for count in (400, 1000):
        sides.append(plan(canonical(tmp_path / f"r{count}", *texts[:count]), folder)[0].side[:400])
    assert not np.any((sides[0] == 0) & (sides[1] == 1))
    assert not np.any((sides[0] == 1) & (sides[1] != 1))


def test_processes_change_nothing(tmp_path, folder, monkeypatch):
    path = canonical(tmp_path / "r", *corpus_of(400, 5))
    texts = evaluation(tmp_path / "e.txt", "\n".join(corpus_of(30, 5)).encode())
    one, two = (plan(path, folder, [texts], threads) for threads in (1, 2))
    assert one[0].side.tobytes() == two[0].side.tobytes()
    assert one[1:] == two[1:]


def test_null_looks_for_nothing(tmp_path, folder):
    path = canonical(tmp_path / "r", *(asked(f"the same old question, number {number}", "x") for number in range(200)))
    found, listed, facts = plan(path, folder, max_similarity=None)
    assert (found.side >= 0).all()
    assert (listed, facts["leaked_before"], facts["contamination"]) == ([], None, None)


def test_nothing_left_to_train_on_is_one_sentence(tmp_path, folder):
    path = canonical(tmp_path / "r", *(asked(f"the same old question, number {number}", "x") for number in range(200)))
    with pytest.raises(DataError, match=r"split\.max_similarity"):
        plan(path, folder)


def test_stratifying_gives_every_source_its_share(tmp_path, folder):
    path = tmp_path / "r"
    lines = []
    for source, count in enumerate((2000, 3, 5, 1)):
        for line in range(1, count + 1):
            messages = [{"role": "user", "content": f"{source} {line}"}, {"role": "assistant", "content": "x"}]
            lines.append(orjson.dumps({"source": source, "line": line, "messages": messages}))
    path.write_bytes(b"\n".join(lines) + b"\n")
    policy = {"test_size": 0.02, "max_similarity": None}
    plain_counts = plan(path, folder, **policy)[2]["by_source"]["eval"]
    counts = plan(path, folder, stratify=True, **policy)[2]["by_source"]
    assert plain_counts[1:] != [1, 1]
    assert counts["eval"][0] == plain_counts[0]
    assert counts["eval"][1:] == [1, 1]
    assert counts["train"] == [2000 - plain_counts[0], 2, 4, 1]


def numbered(count):
    return [asked(f"Question number {n}: what is the capital of country {n}?", f"It is city {n}") for n in range(count)]


def test_of_a_held_out_record_that_very_many_are_like_few_pairs_are_kept(tmp_path, folder):
    """So many pairs as there are records, of each held-out one, would be neither held nor compared in time."""
    path = canonical(tmp_path / "r", *(f"{question} {answer}" for (_, question), (_, answer) in numbered(3000)))
    held_out = np.arange(3000) % 600 == 0
    (task,) = leaking.tasks_of(Side(path, ~held_out), 0.5)
    rows = leaking.shingles_of_range(path, task[1], held_out, 0, 0.5)
    leaking.SimilarityIndex.build(rows, 0.5).save(folder / "held_out")
    counts = [int(leaking.leaks_of_range(*task, folder / "held_out", most).counts.sum()) for most in (10, 3000)]
    assert counts[1] > 10_000
    assert 5 * 10 < counts[0] <= 5 * (10 + BATCH_TEXTS)


def test_texts_that_share_very_much_with_very_many_others_take_little_memory(monkeypatch):
    """Each pair shares most of the few runs of characters that two letters make; almost none is alike."""
    rng = random.Random(1)
    texts = ["".join(rng.choices("ab", k=120)) for _ in range(1100)]
    held_out, others = (shingled(some, 5, 0.97) for some in (texts[:1000], texts[1000:]))
    index = overlap.SimilarityIndex.build(held_out, 0.97)

    def found():
        tracemalloc.start()
        pieces = list(index.similar(others))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return pieces, peak

    (whole, unbounded), _ = found(), monkeypatch.setattr(hash_index, "HITS", 1 << 12)
    monkeypatch.setattr(overlap, "BITMAP_PAIRS", 1 << 8)
    pieces, bounded = found()
    assert (len(whole), len(pieces)) == (1, 25)
    one, other = ([np.concatenate(column) for column in zip(*some, strict=True)] for some in (whole, pieces))
    assert len(one[0]) and all(map(np.array_equal, one, other))
    assert bounded < unbounded / 2


def test_texts_of_few_words_are_counted_in_tables_and_by_sorting_alike(monkeypatch):
    """Every run of characters occurs in very many of them; pairs of both ways are found, and the same ones."""
    rng = random.Random(3)
    texts = [" ".join(rng.choices(("kab", "lod", "mif", "neg"), k=6)) for _ in range(1500)]
    rare = [f"{number:05} {number * 7919:07} {number * 104729:09}" for number in range(100)]
    held_out, others = (shingled(some, 5, 0.5) for some in (texts[:1000] + rare[:50], texts[1000:] + rare[50:]))
    index, ways = overlap.SimilarityIndex.build(held_out, 0.5), []
    by_table, counted = overlap.SimilarityIndex._shared_with_all, []
    monkeypatch.setattr(
        overlap.SimilarityIndex, "_shared_with_all", lambda *given: counted.append(1) or by_table(*given)
    )
    for least in (0, 2000, 1 << 40):
        monkeypatch.setattr(overlap, "TABLE_HITS", least)
        x, y, similarity = (np.concatenate(column) for column in zip(*index.similar(others), strict=True))
        order = np.lexsort((y, x))
        ways.append((x[order].tolist(), y[order].tolist(), similarity[order].tolist(), len(counted)))
    assert len(ways[0][0]) > 1000
    assert ways[0][:3] == ways[1][:3] == ways[2][:3]
    assert 0 < ways[1][3] - ways[0][3] < ways[0][3], "between the extremes each way counts some texts"
    assert ways[2][3] == ways[1][3]


def test_the_order_of_rarity_is_that_of_the_frequencies():
    counts = np.concatenate([np.arange(1, 2000), 1 << np.arange(11, 33)])
    coded = overlap._rarity(counts)
    assert (np.diff(coded.astype(int)) >= 0).all()
    assert (coded[counts <= 128] == counts[counts <= 128]).all()
    assert len(set(coded[counts >= 2048].tolist())) == 22, "each power of two up to 2**32 has a value of its own"


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 10]), st.booleans())
def test_held_out_records_that_many_are_like_are_left_out_exactly(tmp_path_factory, seed, most, sampled):
    folder = tmp_path_factory.mktemp("alike")
    rng = random.Random(seed)
    texts = [*corpus_of(120, seed), *(f"{question} {answer}" for (_, question), (_, answer) in numbered(40))]
    rng.shuffle(texts)
    path, held_out = canonical(folder / "r", *texts), np.array([rng.random() < 0.3 for _ in texts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaking, "SAMPLED_RECORDS", 60 if sampled else 1 << 20)
        patch.setattr(leaking, "COMPARED_AT_ONCE", 200)
        patch.setattr(leaking, "LISTED_AT_ONCE", 3)
        patch.setattr(leaking, "line_ranges", lambda path: line_ranges(path, 9000))
        found = find_leaks(Side(path, ~held_out), Side(path, held_out), 0.5, folder, most=most)
    train, evaluation = np.flatnonzero(~held_out).tolist(), np.flatnonzero(held_out).tolist()
    pairs = {(x, y): similarity(texts[x], texts[y], 0.5) for x in train for y in evaluation}
    like = {y: [x for x in train if pairs[x, y] >= 0.5] for y in evaluation}
    assert found.template_family.tolist() == [y for y in evaluation if len(like[y]) > most]
    dropped = sorted({x for y in evaluation if len(like[y]) <= most for x in like[y]})
    assert found.train.tolist() == dropped
    for x, y, value in zip(dropped, found.evaluation.tolist(), found.similarity.tolist(), strict=True):
        assert value == pairs[x, y] == max(pairs[x, z] for z in evaluation if len(like[z]) <= most)


def test_records_made_from_a_template_stay_unless_told_otherwise(tmp_path, folder):
    text = sentence(random.Random(4), 60)
    others = [asked(f"{text} {n}", "x") for n in ("one", "two", "three")]
    path = canonical(tmp_path / "r", *numbered(200), *others)
    kept, _, facts = plan(path, folder, max_alike=10)
    assert facts["eval_alike"] == np.count_nonzero(kept.side[:200] == 1)
    assert (kept.side[:200] != -1).all()
    (note,) = kept.notes(SplitPolicy(0.2, 0, max_similarity=0.5, max_alike=10))
    assert "more than 10 training records each are similar to" in note
    assert kept.must_differ.tolist() == [record >= 200 for record in np.flatnonzero(kept.side == 1)]
    with pytest.raises(DataError, match="too similar"):
        plan(canonical(tmp_path / "s", *numbered(200)), folder, max_alike=None)


def test_sides_that_share_something_are_refused(tmp_path, folder):
    rng = random.Random(2)
    text = sentence(rng, 80)
    must_differ = canonical(tmp_path / "a", asked("one", "x"), sentence(rng, 50))
    template_family = canonical(tmp_path / "b", asked("two", "y"), text)
    near = canonical(tmp_path / "c", f"{text} more")
    same = canonical(tmp_path / "d", asked(" one\n", "z"))
    assert check_sides(must_differ, Side(template_family), True, folder) == {
        "shared_prompts": 0,
        "similar_pairs": 0,
        "records_checked": 2,
    }
    for one, other in ((template_family, near), (must_differ, same)):
        with pytest.raises(DataError, match="both sides"):
            check_sides(one, Side(other), True, folder)
    assert check_sides(template_family, Side(near, np.array([False])), True, folder)["similar_pairs"] == 0
    assert check_sides(template_family, Side(near), False, folder) == {"shared_prompts": 0}


def test_of_a_long_file_of_training_records_some_ranges_are_searched_again(tmp_path, folder, monkeypatch):
    rng = random.Random(3)
    texts = [sentence(rng, 40) for _ in range(60)]
    train, held_out = canonical(tmp_path / "a", *texts), canonical(tmp_path / "b", f"{texts[0]} more")
    monkeypatch.setattr(leaking, "line_ranges", lambda path: line_ranges(path, 1000))
    with pytest.raises(DataError, match="'similar_pairs': 1"):
        check_sides(train, Side(held_out), True, folder)
    must_differ = canonical(tmp_path / "c", *texts[1:])
    found = check_sides(must_differ, Side(canonical(tmp_path / "d", texts[0])), True, folder)
    assert 4 <= found["records_checked"] < 59


LONG = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many?"
SHORT = "What is the capital of Assyria?"


def decontaminated(tmp_path, folder, content, *records, name="e.jsonl"):
    """Return the numbers of contaminated records (all are trained on), what is listed and the counts."""
    path = canonical(tmp_path / "r", asked("harmless", "quite harmless"), *records)
    entry = evaluation(tmp_path / name, content)
    _, listed, facts = plan(path, folder, [entry], test_size=0, max_similarity=None)
    return [found["removed"]["line"] - 1 for found in listed], listed, facts["contamination"]


def jsonl(*values):
    return b"".join(orjson.dumps(value) + b"\n" for value in values)


@pytest.mark.parametrize("hits", [hash_index.HITS, 3])
def test_planted_questions_are_found_in_any_dress(tmp_path, folder, monkeypatch, hits):
    monkeypatch.setattr(hash_index, "HITS", hits)
    content = jsonl({"id": 7, "nested": [{"q": LONG}], "answer": "72"}, {"q": SHORT})
    found, listed, counts = decontaminated(
        tmp_path,
        folder,
        content,
        asked(LONG, "72"),
        asked(f"Solve: {LONG.upper()} Think first.", "x"),
        asked("x", LONG.replace(",", " -").replace(" ", "\n")),
        asked("natalia sold clips to 48 of her friends in april and then", "she sold half"),
        asked(SHORT.lower().strip("?"), "Assur"),
        asked(f"Tell me: {SHORT}", "Assur"),
        asked("x", SHORT),
        [("system", LONG), *asked("a", "72")],
        f"{LONG}",
    )
    assert found == [1, 2, 3, 5, 9]
    assert counts == {"any_13_gram": 4, "half_of_8_grams": 4, "whole_short_text": 1}
    assert listed[0]["evaluation_text"] == LONG
    assert (listed[0]["line"], listed[0]["share"], listed[3]["line"]) == (1, 1.0, 2)
    assert listed[3]["rules"] == ["whole_short_text"]
    assert Path(listed[0]["file"]).name == "e.jsonl"


def test_what_is_found_is_said(tmp_path, folder):
    path = canonical(tmp_path / "r", asked("harmless", "quite harmless"), asked(LONG, "72"))
    found, _, _ = plan(path, folder, [evaluation(tmp_path / "e.jsonl", jsonl({"q": LONG}))], test_size=0)
    (note,) = found.notes(SplitPolicy(0, 0, decontaminate=["e.jsonl"]))
    assert note.startswith("1 of 2 records (50%) contain text of the files in split.decontaminate")


def test_half_of_the_runs_of_eight_words_is_enough(tmp_path, folder):
    words = LONG.replace(",", "").split()
    twelve = " ".join(words[:12])
    spoilt = f"{' '.join(words[:12])} oops {' '.join(words[12:])}"
    found, listed, counts = decontaminated(tmp_path, folder, jsonl(LONG), asked(twelve, "x"), asked(spoilt, "x"))
    assert found == [2]
    assert listed[0]["rules"] == ["half_of_8_grams"]
    assert counts == {"any_13_gram": 0, "half_of_8_grams": 1, "whole_short_text": 0}


def test_runs_do_not_cross_turns(tmp_path, folder):
    half = LONG.split()
    record = [*asked(" ".join(half[:11]), "ok"), *asked(" ".join(half[11:]), "ok")]
    assert decontaminated(tmp_path, folder, jsonl(LONG), record)[0] == []


def test_chinese_questions_are_found(tmp_path, folder):
    text = "".join(chr(0x4E00 + 97 * number) for number in range(40))
    found, _, _ = decontaminated(
        tmp_path, folder, jsonl({"q": text}), asked(f"请回答 {text[:30]}", "x"), asked("请", "x")
    )
    assert found == [1]


def test_lines_of_a_text_file_count_each(tmp_path, folder):
    found, listed, _ = decontaminated(
        tmp_path, folder, f"\n{SHORT}\n\n{LONG}\n".encode(), asked(SHORT, "x"), asked(LONG, "x"), name="e.txt"
    )
    assert found == [1, 2]
    assert [entry["line"] for entry in listed] == [2, 4]


@pytest.mark.parametrize(
    ("name", "compress"),
    [("e.jsonl.gz", gzip.compress), ("e.jsonl.zst", lambda content: pa.compress(content, "zstd", asbytes=True))],
)
def test_compressed_files_are_read(tmp_path, folder, name, compress):
    content = compress(jsonl({"q": "another"}, {"q": LONG}))
    found, listed, _ = decontaminated(tmp_path, folder, content, asked(LONG, "x"), name=name)
    assert (found, listed[0]["line"]) == ([1], 2)
    with pytest.raises(DataError, match=f"{name}: the compressed data are damaged or truncated after line"):
        decontaminated(tmp_path, folder, content[:-9], asked(LONG, "x"), name=name)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (b"[1, 2]\n", "holds no text"), (b'{"a": "b"}\noops\n', "line 2 is not JSON")],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, folder, content, problem):
    with pytest.raises(DataError, match=problem):
        decontaminated(tmp_path, folder, content, asked("a", "b"))


def test_a_file_that_changed_is_one_sentence(tmp_path, folder):
    entry = evaluation(tmp_path / "e.txt", b"one")
    (tmp_path / "e.txt").write_bytes(b"two")
    with pytest.raises(DataError, match="changed"):
        plan(canonical(tmp_path / "r", "a", "b"), folder, [entry])


def test_a_record_that_is_both_counts_once(tmp_path, folder):
    rng = random.Random(6)
    base = [sentence(rng, 60) for _ in range(60)]
    records = [asked(f"{number} {text}", "yes") for number, text in enumerate(base)]
    records += [asked(f"again {number} {text} more", "yes") for number, text in enumerate(base)]
    path = canonical(tmp_path / "r", *records)
    entry = evaluation(tmp_path / "e.txt", "\n".join(base[:40]).encode())
    found, listed, facts = plan(path, folder, [entry])
    both = [entry["removed"]["line"] for entry in listed]
    assert len(both) == len(set(both)) == np.count_nonzero(found.side == -1)
    assert facts["dropped_contaminated"] == np.count_nonzero((found.side != 1)[np.r_[:40, 60:100]])
    assert facts["dropped_similar"] == len(listed) - facts["dropped_contaminated"] > 0
    assert facts["train"] + facts["eval"] + len(listed) == 120
