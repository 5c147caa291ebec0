"""External evaluation files, parts of the held-out split, and times."""

import gzip
import itertools
import tracemalloc

import numpy as np
import orjson
import pytest
import torch
from tiny_run import conversations, llama, write_data, write_run

from snaketune.core.digests import file_digest
from snaketune.core.errors import ConfigError, DataError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.data.tokens.token_store import TokenStore
from snaketune.evaluate.answers.evaluation_files import FileSettings, canonical_records
from snaketune.evaluate.answers.prompts import Prompt
from snaketune.evaluate.answers.questions import Questions
from snaketune.evaluate.answers.scorers import scorers
from snaketune.evaluate.answers.timing import TokenTimer, timing_facts
from snaketune.evaluate.evaluation import EvaluationInputs, EvaluationSettings, evaluate
from snaketune.evaluate.likelihood import Likelihoods, measure_likelihood
from snaketune.evaluate.measures import additive_measures, by_length, by_source
from snaketune.evaluate.models import ModelSettings
from snaketune.evaluate.results import write_generations
from snaketune.report.run.answers import collect

SUMS = [{"question": f"lamp {n} and {n}", "answer": f"on\n#### {2 * n}"} for n in range(5)]
COLUMNS = {"prompt": "question", "completion": "answer"}


def write_lines(path, records):
    content = b"".join(orjson.dumps(record) + b"\n" for record in records)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return {"path": str(path), "digest": file_digest(path)}


def slice_with(*entries, **own):
    own = {"max_samples": 4, "max_new_tokens": 5, "batch_size": 4, "metrics": ["loss", "numeric_match"]} | own
    found = {"evaluate": own, "data": {"columns": COLUMNS}, "evaluation_files": list(entries)}
    return EvaluationSettings.of_slice(found)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    return write_run(tmp_path_factory.mktemp("run"), conversations(12))


def material(run):
    return EvaluationInputs(run.model, run.adapter, None, run.tokens, run.rows, run.records)


def test_a_file_is_answered_by_every_model_and_filed_under_its_name(tiny, tmp_path):
    entries = [write_lines(tmp_path / "sums.jsonl", SUMS), write_lines(tmp_path / "more.jsonl.gz", SUMS[:2])]
    found = evaluate(material(tiny), slice_with(*entries))
    assert set(found.facts["files"]) == {"sums.jsonl", "more.jsonl.gz"}
    sums = found.facts["files"]["sums.jsonl"]
    assert set(sums) == {"base", "tuned", "differences"}
    assert sums["tuned"]["n_generated"] == 4 and sums["tuned"]["decided_by"] == "numeric_match"
    assert set(sums["differences"]["tuned_minus_base"]) == {"numeric_match"}
    assert found.facts["files"]["more.jsonl.gz"]["base"]["n_generated"] == 2
    write_generations(tmp_path / "generations.jsonl", found)
    rows = [orjson.loads(line) for line in (tmp_path / "generations.jsonl").read_bytes().splitlines()]
    named = [row for row in rows if row.get("file") == "sums.jsonl"]
    assert len(named) == 4 and "file" not in rows[0]
    assert sum(row["tuned_match"] for row in named) == 4 * sums["tuned"]["numeric_match"]
    assert named[0]["reference"] in [line["answer"] for line in SUMS]
    assert named[0]["scores"]["base"] == {"numeric_match": named[0]["base_match"]}


def test_questions_that_do_not_fit_are_counted_and_a_file_of_them_is_refused(tiny, tmp_path):
    long = {"question": "lamp " * 200, "answer": "#### 1"}
    entry = write_lines(tmp_path / "e.jsonl", [*SUMS[:3], long])
    found = evaluate(material(tiny), slice_with(entry)).facts["files"]["e.jsonl"]
    assert (found["left_out"], found["base"]["n_generated"]) == (1, 3)
    entry = write_lines(tmp_path / "long.jsonl", [long])
    with pytest.raises(DataError, match=r"evaluate\.files: no question of .*long\.jsonl can be asked"):
        evaluate(material(tiny), slice_with(entry))


def test_files_of_one_name_are_told_apart(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
    entries = [write_lines(tmp_path / folder / "e.jsonl", SUMS) for folder in "ab"]
    assert set(FileSettings(tuple(entries)).named) == {entry["path"] for entry in entries}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([*SUMS, {"question": "no answer"}], r"1 lines of .*e\.jsonl cannot be used \(1 missing_field\)"),
        ([{"text": "prose"}], "is plain text, which has no questions"),
        ([{"a": 1}], r"evaluate\.files: .* has 'question', needed as the prompt; found: a"),
    ],
)
def test_a_file_that_cannot_be_used_as_a_whole_is_refused(tmp_path, lines, words):
    entry = write_lines(tmp_path / "e.jsonl", lines)
    with pytest.raises(DataError, match=words), canonical_records(entry, FileSettings((entry,), COLUMNS)):
        pass


def test_columns_and_system_prompt_are_those_of_the_data_unless_given(tmp_path):
    cfg = {"evaluate": {"columns": {}}, "data": {"columns": COLUMNS, "system_prompt": "be brief"}}
    settings = FileSettings.of_slice(cfg)
    assert (settings.columns, settings.system_prompt) == (COLUMNS, "be brief")
    assert FileSettings.of_slice(cfg | {"evaluate": {"columns": {"text": "t"}}}).columns == {"text": "t"}
    entry = write_lines(tmp_path / "e.jsonl", SUMS)
    with canonical_records(entry, settings) as records:
        first = orjson.loads(records.read_bytes().splitlines()[0])
    assert [turn["role"] for turn in first["messages"]] == ["system", "user", "assistant"]


def test_files_without_anything_to_ask_are_refused(tiny, tmp_path):
    entry = write_lines(tmp_path / "e.jsonl", SUMS)
    with pytest.raises(ConfigError, match=r"evaluate\.files: nothing can be asked or scored"):
        evaluate(material(tiny), slice_with(entry, metrics=["loss"]))


def test_parts_add_up_to_the_whole(tiny, tmp_path):
    run = write_run(tmp_path, conversations(12))
    store = TokenStore(run.tokens / "eval")
    store.sources = np.arange(12, dtype=np.int32) % 3
    found = measure_likelihood(llama(300), PackedRows(run.rows), ModelSettings())
    measures = {name: additive_measures(found, store, ["loss", "bits_per_byte"]) for name in ("base", "tuned")}
    groups = by_source(found, store, measures)
    assert [(group["source"], group["n"]) for group in groups] == [(0, 4), (1, 4), (2, 4)]
    total = sum(group["tokens"] * group["base"]["loss"] for group in groups)
    assert total == pytest.approx(found.nll.sum())
    assert groups[0]["difference"]["loss"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    lengths = by_length(found, measures)
    assert sum(group["n"] for group in lengths) == 12
    for group in lengths:
        assert group["n"] == ((found.lengths >= group["from"]) & (found.lengths < group["to"])).sum()
        assert group["to"] == 2 * group["from"]


def test_a_source_is_that_of_its_documents_whatever_their_order():
    store = type("Store", (), {"records": np.array([0, 4, 9]), "sources": np.array([2, 0, 2])})
    ones = np.ones(3, np.int64)
    first = Likelihoods(np.array([0, 4, 9]), 8 * ones, ones, np.array([1.0, 5.0, 3.0]), ones, np.zeros(3, bool))
    measures = {"base": additive_measures_of_loss(first)}
    assert [(g["source"], g["base"]["loss"]) for g in by_source(first, store, measures)] == [(0, 5.0), (2, 2.0)]


def additive_measures_of_loss(likelihoods):
    from snaketune.evaluate.additive import Additive

    parts = np.stack([likelihoods.nll, likelihoods.tokens], axis=1)
    return {"loss": Additive(parts, lambda sums: float(sums[0] / sums[1]))}


def test_times_are_measured_with_the_clock_that_is_given(tiny):
    ticks = itertools.count()
    found = evaluate(
        material(tiny), slice_with(metrics=["exact_match"], latency_requests=3), lambda: float(next(ticks))
    )
    timing = found.timings["tuned"]
    assert timing["latency_requests"] == 3
    assert timing["latency_median_s"] == timing["latency_p95_s"] == 1.0
    assert timing["tokens_per_second"] == timing["tokens"] / 1.0
    assert evaluate(material(tiny), slice_with(metrics=["exact_match"])).timings == {}


def test_the_median_and_the_95th_percentile_are_of_single_requests():
    single, batched = TokenTimer(lambda: 0.0, [float(n) for n in range(1, 101)], 50), TokenTimer(lambda: 0.0, [2.0], 30)
    facts = timing_facts(single, batched, 8)
    assert facts["latency_median_s"] == 50.5 and facts["latency_p95_s"] == pytest.approx(95.05)
    assert facts["tokens_per_second"] == 15.0
    assert "latency_median_s" not in timing_facts(TokenTimer(lambda: 0.0), batched, 8)


def test_likelihoods_hold_a_few_numbers_per_document(tiny, tmp_path):
    """Beyond one batch a document costs less than 250 bytes, in all Python and numpy memory."""
    peaks = {}
    model = llama(300)
    run = write_run(tmp_path, conversations(1))
    for count in (600, 1800):
        write_data(run, conversations(count))
        rows = PackedRows(run.rows)
        tracemalloc.start()
        measure_likelihood(model, rows, ModelSettings())
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[1800] - peaks[600] < 1200 * 250


def test_rows_hold_ties_losses_cut_answers_and_requests_that_were_not_put():
    prompts = [Prompt(record, f"q{record}", (1,), "red") for record in (0, 2, 5, 7)]
    questions = Questions(prompts, scorers(["exact_match"], ["strip"]), {6: "too long", 1: "refused"})
    questions.add("base", ["red", "red", "blue", "blue"], [False, False, False, True])
    facts = questions.add("tuned", ["red", "blue", "red", "green"], [False] * 4)
    rows = list(questions.rows())
    assert [row.get("outcome") for row in rows[:4]] == ["tie", "worse", "better", "tie"]
    assert [row.get("cut") for row in rows[:4]] == [None, None, None, ["base"]]
    assert rows[4:] == [{"record": 1, "left_out": "refused"}, {"record": 6, "left_out": "too long"}]
    assert facts == {"exact_match": 0.5, "n_generated": 4}
    answers = collect(rows)
    assert (answers.total, answers.counts["broken"], answers.counts["fixed"]) == (4, 1, 1)
