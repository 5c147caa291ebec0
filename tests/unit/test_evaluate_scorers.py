import random
import sys

import numpy as np
import orjson
import pytest

from snaketune.core.errors import ConfigError
from snaketune.evaluate import evaluation_packages
from snaketune.evaluate.additive import Additive
from snaketune.evaluate.answers.matching import answer_number, normalizer, numeric_match, reference_number
from snaketune.evaluate.answers.scorers import json_equal, json_valid, score_answers, scorers

ANSWERS = ["the lamp goes on at seven", "Kitchen, off!", "", "The cat sat on the mat.", "rouge et noir: caf\u00e9"]
REFERENCES = ["the lamp goes on at nine", "kitchen off", "red", "The cat sat on a mat.", "rouge et noir: caf\u00e9"]


def over(name, answers=ANSWERS, references=REFERENCES, normalize=("strip",)):
    return score_answers(scorers([name], normalize)[name], answers, references)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_corpus_scores_are_those_of_sacrebleu(name):
    from sacrebleu.metrics import BLEU, CHRF

    expected = {"bleu": BLEU, "chrf": CHRF}[name]().corpus_score(ANSWERS, [REFERENCES]).score
    assert over(name).over() == pytest.approx(expected, abs=1e-6)
    part = np.array([0, 3])
    chosen = [[texts[place] for place in part] for texts in (ANSWERS, REFERENCES)]
    expected = {"bleu": BLEU, "chrf": CHRF}[name]().corpus_score(chosen[0], [chosen[1]]).score
    assert over(name).over(part) == pytest.approx(expected, abs=1e-6)


def test_rouge_is_that_of_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    pairs = zip(REFERENCES, ANSWERS, strict=True)
    expected = [scorer.score(reference, answer)["rougeL"].fmeasure for reference, answer in pairs]
    assert over("rouge_l").over() == pytest.approx(sum(expected) / 5, abs=1e-6)


@pytest.mark.parametrize(
    ("names", "answer", "reference", "equal"),
    [
        (["strip"], " red \n", "red", True),
        ([], "red ", "red", False),
        (["strip"], "Red", "red", False),
        (["case"], "STRASSE", "stra\u00dfe", True),
        (["whitespace"], " a  b\n c", "a b c", True),
        (["punctuation"], "yes, it is\u2026", "yes it is", True),
        (["punctuation"], "3+4", "34", True),
        (["articles", "case"], "The end of a story", "end of story", True),
        (["articles"], "theatre", "atre", False),
        (["unicode"], "\uff21\uff11", "A1", True),
        (["case", "punctuation", "articles", "whitespace"], "The Cat.", "cat", True),
    ],
)
def test_normalizers_overlook_what_they_say(names, answer, reference, equal):
    apply = normalizer(names)
    assert (apply(answer) == apply(reference)) is equal
    assert over("exact_match", [answer], [reference], names).over() == float(equal)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("2 and 2 are 4\n#### 4", "so\n#### 4", True),
        ("4 apples, then 5\n#### 4", "#### 5", False),
        ("#### 1,000.00", "#### 1000", True),
        ("#### $18.50", "#### 18.5", True),
        ("the total is 42.", "#### 42", True),
        ("so 10-3=7", "#### 7", True),
        ("it falls by -3", "#### -3", True),
        ("it is 3", "#### -3", False),
        ("#### 3\nwait\n#### 4 eggs", "#### 4", True),
        ("A: 90,000", "x\nA: 70000", False),
        ("5 * 1", "y\nA: 64", False),
        ("The answer is 12 because 5 + 7", "#### 7", True),
        ("The answer is: 12%", "12", True),
        ("nothing", "#### 1", False),
        ("#### none of 8", "#### 8", True),
        ("####", "#### 8", False),
        ("version 2.5.1", "#### 1", False),
        ("1/2 is .5", "#### 0.5", True),
    ],
)
def test_numeric_answers(answer, reference, right):
    assert numeric_match(answer, reference) is right


def test_written_solutions_are_judged_as_they_were_made():
    """Of 2,000 solutions of known label, in the ways people and models write numbers, none is judged otherwise."""
    rng = random.Random(5)
    ways = [
        "#### {}",
        "so {0} in all\n#### {0}",
        "9 and 7\nA: {}",
        "The answer is: {}",
        "2 of 5, which is {}.",
        "= ${}",
    ]
    for _ in range(2000):
        value = rng.choice([rng.randint(0, 99), rng.randint(1000, 9_999_999), rng.randint(1, 9999) / 100])
        is_right = rng.random() < 0.5
        given = value if is_right else value + rng.choice([1, 10, 0.5])
        written = rng.choice([f"{given:,}", str(given), f"{given:.2f}"])
        answer = f"{rng.randint(1, 9)} apples\n" + rng.choice(ways).format(written)
        assert numeric_match(answer, f"work\n#### {value:,}") is is_right, (answer, value)


def test_a_reference_without_a_numeric_answer_is_no_case():
    assert reference_number('{"minutes": 20}') is None
    assert reference_number("at 7 or 8") is None
    assert numeric_match("7", "at 7") is None
    assert answer_number("") is None
    both = over("numeric_match", ["4", "4", "5"], ["#### 4", "four", "#### 4"])
    assert both.over() == 0.5
    assert over("numeric_match", ["4"], ["four"]).over() is None


@pytest.mark.parametrize(
    ("answer", "valid", "equal"),
    [
        ('{"b": [1, 2], "a": 1.0}', True, True),
        ('{"a": 1, "b": [2, 1]}', True, False),
        ('{"a": true, "b": [1, 2]}', True, False),
        ('{"a": 1, "b": [1, 2]', False, False),
        ("7", True, False),
        ("", False, False),
    ],
)
def test_json_is_compared_as_json(answer, valid, equal):
    reference = '{"a":1,"b":[1,2]}'
    assert (json_valid(answer, reference), json_equal(answer, reference)) == (valid, equal)


def test_what_is_no_json_object_is_no_case():
    assert json_valid("{}", "a word") is None
    assert json_equal("7", "7") is None
    deep = "[" * 900 + "]" * 900
    orjson.loads(deep)
    limit = sys.getrecursionlimit()
    try:
        for depth in (limit, 5000):  # as some libraries set it, beyond which orjson's own limit is met
            sys.setrecursionlimit(depth)
            assert json_equal(deep, deep) in (True, False)
    finally:
        sys.setrecursionlimit(limit)


def test_a_missing_package_is_one_sentence_before_anything_runs(monkeypatch):
    monkeypatch.setattr(evaluation_packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"evaluate\.metrics: chrf needs the package sacrebleu: pip install -r envs/"):
        evaluation_packages.require_evaluation_packages(["loss", "chrf"], [])
    with pytest.raises(ConfigError, match=r"evaluate\.tasks needs the package lm_eval"):
        evaluation_packages.require_evaluation_packages(["loss"], ["t.yaml"])
    evaluation_packages.require_evaluation_packages(["loss", "exact_match"], [])


def test_nothing_to_score_is_none():
    assert isinstance(over("exact_match"), Additive)
    assert over("rouge_l", ["\u4f60\u597d"], ["\u4f60\u597d"]).over() == 0.0
