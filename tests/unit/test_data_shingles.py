import random
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaketune.data.similarity.shingles import ShingleRows, batches, jaccard, shingled
from snaketune.data.similarity.word_hashing import WORD_BREAK, kinds_of_characters, windows, word_hashes

ALPHABET = "ab  cé\n\u3000\u00a0漢字かナ한국กa\u0301\U00020000.,"
SINGLE = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
    "\uf900-\ufaff\U00020000-\U0003ffff])"
)


def plain(text, ngram=5, threshold=0.8):
    """The shingles of a text the slow way: {kind: set}."""
    text = unicodedata.normalize("NFKC", text).lower()
    tokens, characters = SINGLE.sub(r" \1 ", text).split(), " ".join(text.split())
    found = {}
    if len(tokens) >= 4 * ngram:
        found["words"] = {tuple(tokens[at : at + ngram]) for at in range(len(tokens) - ngram + 1)}
    if len(tokens) < 4 * ngram / threshold:
        found["characters"] = {characters[at : at + 5] for at in range(max(1, len(characters) - 4))}
    return found


def similarity(one, other):
    """The highest similarity of two texts by a kind that both have."""
    a, b = plain(one), plain(other)
    return max((len(a[kind] & b[kind]) / len(a[kind] | b[kind]) for kind in a.keys() & b.keys()), default=0)


def texts_of(alphabet, longest):
    return st.lists(st.text(alphabet=alphabet, max_size=longest), min_size=1, max_size=8)


@given(texts_of(ALPHABET, 12) | texts_of(ALPHABET, 200))
def test_shingles_are_those_of_the_plain_definition(texts):
    rows = shingled(texts, 5, 0.8)
    expected = [(owner, kind) for owner, text in enumerate(texts) for kind in plain(text)]
    assert rows.owner.tolist() == [owner for owner, _ in expected]
    for row, (owner, kind) in enumerate(expected):
        found = rows.hashes[rows.offsets[row] : rows.offsets[row + 1]]
        assert len(set(found.tolist())) == len(plain(texts[owner])[kind])


@given(texts_of(ALPHABET, 60))
def test_a_row_does_not_depend_on_the_batch_it_is_in(texts):
    together = shingled(texts, 5, 0.8)
    alone = [shingled([text], 5, 0.8) for text in texts]
    assert together.hashes.tolist() == [value for rows in alone for value in rows.hashes.tolist()]
    assert np.diff(together.offsets).tolist() == [size for rows in alone for size in np.diff(rows.offsets).tolist()]


def test_hashes_are_the_same_on_every_machine_and_with_every_version():
    rows = shingled(["the quick brown fox", "漢字" * 20], 5, 0.8)
    assert (int(np.bitwise_xor.reduce(rows.hashes)), len(rows.hashes)) == (3640527151832884378, 51)


@given(st.lists(st.text(alphabet="ab é漢", max_size=150), min_size=2, max_size=8))
def test_jaccard_is_exact(texts):
    rows = shingled(texts, 5, 0.8)
    kinds = [(owner, kind) for owner, text in enumerate(texts) for kind in plain(text)]
    x, y = (grid.reshape(-1) for grid in np.meshgrid(np.arange(len(rows)), np.arange(len(rows))))
    for value, one, other in zip(jaccard(rows, rows, x, y), x, y, strict=True):
        (a, kind), (b, other_kind) = kinds[one], kinds[other]
        one_set, other_set = plain(texts[a])[kind], plain(texts[b])[other_kind]
        same_kind = kind == other_kind
        assert value == (len(one_set & other_set) / len(one_set | other_set) if same_kind else 0)


def test_jaccard_of_many_pairs_is_that_of_single_ones():
    rng = random.Random(3)
    texts = [" ".join(rng.choices("abcdefgh", k=rng.choice([30, 60, 4000]))) for _ in range(40)]
    rows = shingled(texts, 3, 0.8)
    x = np.array([rng.randrange(len(rows)) for _ in range(6000)])
    y = np.array([rng.randrange(len(rows)) for _ in range(6000)])
    together = jaccard(rows, rows, x, y)
    for place in range(0, 6000, 500):
        assert together[place] == jaccard(rows, rows, x[place : place + 1], y[place : place + 1])[0]


def test_no_rows_have_no_similarity():
    rows = shingled(["a"], 5, 0.8)
    nothing = np.zeros(0, np.int64)
    assert len(jaccard(rows, rows, nothing, nothing)) == 0
    assert len(ShingleRows(nothing, nothing.astype(np.uint64), np.zeros(1, np.int64))) == 0


def test_spaces_are_those_of_python():
    spaces = [code for code in range(0x110000) if chr(code).isspace()]
    assert np.flatnonzero(kinds_of_characters() == WORD_BREAK).tolist() == spaces


@pytest.mark.parametrize("mark", list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»¿—…、。「」"))
def test_punctuation_separates_words_where_it_is_to(mark):
    apart, _ = word_hashes([f"one{mark}two {mark}"], punctuation_breaks=True)
    assert apart.tolist() == word_hashes(["one two"])[0].tolist()


def test_a_word_is_the_same_wherever_it_stands():
    hashes, offsets = word_hashes(["x yy zzz", "zzz", "yy 漢zzz"])
    x, yy, zzz, *rest = hashes.tolist()
    assert rest == [zzz, yy, word_hashes(["漢"])[0][0], zzz]
    assert len({x, yy, zzz}) == 3
    assert offsets.tolist() == [0, 3, 4, 7]


def test_windows_of_different_kinds_do_not_meet():
    hashes, offsets = word_hashes(["a b c d e f"])
    assert not set(windows(hashes, offsets, 5, 1)[0].tolist()) & set(windows(hashes, offsets, 5, 2)[0].tolist())


def test_one_changed_character_leaves_chinese_alike():
    text = "".join(chr(0x4E00 + 37 * number) for number in range(120))
    assert similarity(text, f"{text[:60]}改{text[61:]}") > 0.8


def test_one_changed_word_leaves_a_short_text_alike():
    text = "please tell me which river runs through the capital of that small country tomorrow"
    assert similarity(text, text.replace("small", "large")) > 0.7
    assert similarity(text, text.replace("tomorrow", "today!")) > 0.8


def test_no_length_keeps_texts_apart_that_differ_by_one_word():
    tokens = [f"word{number}" for number in range(40)]
    for length in range(15, 35):
        one, other = " ".join(tokens[:length]), " ".join(tokens[: length + 1])
        assert similarity(one, other) > 0.8, length


def test_a_batch_is_bounded_in_texts_and_in_size():
    found = list(batches(["a" * 100_000] * 7 + ["b"] * 1000))
    assert [text for batch in found for text in batch] == ["a" * 100_000] * 7 + ["b"] * 1000
    assert max(map(len, found)) <= 256
    assert max(sum(map(len, batch)) for batch in found) < 400_000
