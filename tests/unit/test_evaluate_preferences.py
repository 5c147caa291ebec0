"""Held-out pairs: the chosen answers are measured, the rejected ones only compared with."""

import numpy as np
import orjson
import pyarrow as pa
import pytest
import torch
from tiny_run import COLUMNS, conversations, tokenized, write_data, write_run
from transformers import AutoTokenizer

from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.tokens.token_store import TokenStore
from snaketune.evaluate.evaluation import EvaluationInputs, EvaluationSettings, evaluate
from snaketune.evaluate.likelihood import Likelihoods, measure_likelihood
from snaketune.evaluate.models import ModelSettings, attach_adapter, load_model
from snaketune.evaluate.preferences import preference_measures
from snaketune.evaluate.results import write_documents

PAIRS, ROW = 12, 96
METRICS = ["loss", "perplexity", "bits_per_byte", "token_accuracy", "exact_match", "preference_accuracy"]
SETTINGS = {"metrics": METRICS, "max_samples": 4, "max_new_tokens": 3, "batch_size": 4, "cpu_threads": 1}


def pairs_of(records):
    """Pairs of the first and the second half of some conversations: the question of the first, both answers."""
    for one, other in zip(records[:PAIRS], records[PAIRS:], strict=True):
        (asked, chosen), (_, rejected) = one["messages"], other["messages"]
        yield {"source": 0, "line": one["line"], "messages": [asked], "chosen": [chosen], "rejected": [rejected]}


def write_pairs(run, pairs):
    """Replace the held-out records, tokens and rows of a tiny run by pairs, as the data stages write them."""
    run.records.write_bytes(b"".join(orjson.dumps(pair) + b"\n" for pair in pairs))
    tokenizer, rows = AutoTokenizer.from_pretrained(run.model), []
    for number, pair in enumerate(pairs):
        sides = [tokenized({"messages": pair["messages"] + pair[name]}, tokenizer) for name in ("chosen", "rejected")]
        ids, mask, size = (one + other for one, other in zip(*sides, strict=True))
        rows.append((ids, mask, len(ids), size, number, 0, len(sides[0][0])))
    schema = pa.schema([*COLUMNS.items(), ("second", pa.int32())])
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema)
    path = run.tokens / "eval" / "data-00000-of-00001.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table)
    store = TokenStore(run.tokens / "eval")
    write_rows(run.rows, store, [np.arange(n, n + 1) for n in range(len(store))], ROW, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    return write_run(tmp_path_factory.mktemp("run"), conversations(2 * PAIRS))


@pytest.fixture(scope="module")
def expected(run):
    """Base and tuned model on the chosen and on the rejected documents as plain conversations, each by itself."""
    pairs, found = list(pairs_of(conversations(2 * PAIRS))), {}
    for side in ("chosen", "rejected"):
        write_data(run, [{**pair, "messages": pair["messages"] + pair[side]} for pair in pairs])
        rows = PackedRows(run.rows)
        tuned = attach_adapter(load_model(run.model, ModelSettings()), run.adapter)
        with tuned.disable_adapter():
            found["base", side] = measure_likelihood(tuned, rows, ModelSettings())
        found["tuned", side] = measure_likelihood(tuned, rows, ModelSettings())
    return found


@pytest.fixture(scope="module")
def evaluation(run, expected):
    write_pairs(run, list(pairs_of(conversations(2 * PAIRS))))
    material = EvaluationInputs(run.model, run.adapter, None, run.tokens, run.rows, run.records)
    return evaluate(material, EvaluationSettings.of_slice(SETTINGS))


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_likelihoods_are_those_of_the_chosen_answers(evaluation, expected, name):
    chosen, facts = expected[name, "chosen"], evaluation.facts[name]
    assert facts["n"] == PAIRS
    assert facts["loss"] == pytest.approx(chosen.nll.sum() / chosen.tokens.sum(), rel=1e-6)
    assert facts["token_accuracy"] == chosen.correct.sum() / chosen.tokens.sum()
    assert "bits_per_byte" not in facts


def test_pairs_are_ranked_by_log_probability_and_by_its_gain(evaluation, expected):
    nll = {key: found.nll for key, found in expected.items()}
    for name in ("base", "tuned"):
        right = nll[name, "chosen"] < nll[name, "rejected"]
        assert 0 < right.mean() < 1
        assert evaluation.facts[name]["preference_accuracy"] == right.mean()
    gain = {side: nll["base", side] - nll["tuned", side] for side in ("chosen", "rejected")}
    assert evaluation.facts["tuned"]["reward_accuracy"] == (gain["chosen"] > gain["rejected"]).mean()
    assert "reward_accuracy" not in evaluation.facts["base"]


def test_the_chosen_answer_is_the_reference_of_a_request(evaluation):
    pairs = list(pairs_of(conversations(2 * PAIRS)))
    assert len(evaluation.prompts) == 4
    assert all(prompt.reference == pairs[prompt.record]["chosen"][0]["content"] for prompt in evaluation.prompts)


def test_documents_say_which_answer_was_rejected(evaluation, expected, tmp_path):
    write_documents(tmp_path / "documents.jsonl", evaluation)
    lines = [orjson.loads(line) for line in (tmp_path / "documents.jsonl").read_bytes().splitlines()]
    assert [(line["record"], line.get("rejected", False)) for line in lines] == [
        (number, rejected) for number in range(PAIRS) for rejected in (False, True)
    ]
    assert [line["tuned_nll"] for line in lines[1::2]] == pytest.approx(expected["tuned", "rejected"].nll, rel=1e-5)


def test_single_documents_have_no_preferences():
    found = Likelihoods(np.arange(3), *(np.ones(3) for _ in range(4)), np.zeros(3, bool))
    assert preference_measures(found, None) == {}


def likelihoods(records, nll, rejected):
    ones = np.ones(len(records), np.int64)
    return Likelihoods(np.array(records), ones, ones, np.array(nll, float), ones, np.array(rejected))


def test_single_answers_are_matched_in_the_order_of_their_records():
    rejected = [False, True, False, False, True]
    base = likelihoods([0, 1, 2, 3, 4], [5, 5, 5, 5, 5], rejected)
    # Gains of the good ones 2, -1, 3 and of the bad ones 1, 0: the third good one has no partner.
    tuned = likelihoods([0, 1, 2, 3, 4], [3, 4, 6, 2, 5], rejected)
    assert preference_measures(base, None) == {}
    assert preference_measures(tuned, base) == {"reward_accuracy": 0.5, "n_matched": 2}
