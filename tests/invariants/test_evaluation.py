"""What an evaluation says is what plain libraries compute without any of our code, in memory that does not grow."""

import math
import sys
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from tiny_run import conversations, llama, write_data, write_run

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate import scoring
from snaketune.evaluate.evaluation import EvaluationInputs, EvaluationSettings, evaluate
from snaketune.evaluate.likelihood import measure_likelihood
from snaketune.evaluate.models import ModelSettings
from snaketune.evaluate.results import write_generations

LIKELIHOODS = ["loss", "perplexity", "bits_per_byte", "token_accuracy"]
TEXTS = ["exact_match", "chrf", "bleu", "rouge_l"]
OWN = {"metrics": LIKELIHOODS + TEXTS, "max_samples": 20, "max_new_tokens": 12, "batch_size": 8}
DOCUMENTS = 37
SETTINGS = ModelSettings()
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose held-out records come from three sources."""
    torch.set_num_threads(1)
    run = write_run(tmp_path_factory.mktemp("run"), conversations(DOCUMENTS))
    path = run.tokens / "eval" / "data-00000-of-00001.arrow"
    table = pa.ipc.open_stream(path.read_bytes()).read_all()
    place = table.schema.get_field_index("source")
    table = table.set_column(place, "source", pa.array([n % 3 for n in range(DOCUMENTS)], pa.int32()))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    base = AutoModelForCausalLM.from_pretrained(run.model)
    PeftModel.from_pretrained(base, run.adapter).merge_and_unload().save_pretrained(run.root / "merged")
    AutoTokenizer.from_pretrained(run.model).save_pretrained(run.root / "merged")
    return run


@pytest.fixture(scope="module")
def found(run):
    material = EvaluationInputs(run.model, run.adapter, run.root / "merged", run.tokens, run.rows, run.records)
    found = evaluate(material, EvaluationSettings.of_slice(OWN | {"dtype": "float32", "cpu_threads": 1}))
    write_generations(run.root / "generations.jsonl", found)
    return found.facts


def plain_models(run):
    yield "base", AutoModelForCausalLM.from_pretrained(run.model)
    yield "tuned", PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(run.model), run.adapter)
    yield "merged", AutoModelForCausalLM.from_pretrained(run.root / "merged")


@pytest.fixture(scope="module")
def reference(run):
    """Nats, tokens, hits, bytes and length of each record under each model: one padded batch, all in float64."""
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    records = [orjson.loads(line)["messages"] for line in run.records.read_bytes().splitlines()]
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in records]
    openings = [tokenizer.apply_chat_template(t[:1], add_generation_prompt=True, tokenize=False) for t in records]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    starts = [len(tokenizer(opening, add_special_tokens=False)["input_ids"]) for opening in openings]
    places = torch.arange(batch["input_ids"].shape[1])
    trained = (places >= torch.tensor(starts)[:, None]) & batch["attention_mask"].bool()
    sizes = torch.tensor([len(turns[-1]["content"].encode()) for turns in records])
    made = {}
    for name, model in plain_models(run):
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].double()
        targets, counted = batch["input_ids"][:, 1:], trained[:, 1:]
        nll = -logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
        hits = logits.argmax(-1) == targets
        columns = (
            (nll * counted).sum(1),
            counted.sum(1),
            (hits & counted).sum(1),
            sizes,
            batch["attention_mask"].sum(1),
        )
        made[name] = torch.stack([column.double() for column in columns], dim=1)
    return made


def measures(numbers):
    nll, tokens, hits, size, _ = numbers.sum(dim=0).tolist()
    loss = nll / tokens
    values = (loss, math.exp(loss), nll / math.log(2) / size, hits / tokens)
    return dict(zip(LIKELIHOODS, values, strict=True))


def of_likelihood(facts):
    return {name: value for name, value in facts.items() if name in LIKELIHOODS}


@pytest.mark.parametrize("model", ["base", "tuned", "merged"])
def test_likelihoods_are_those_of_a_padded_batch(found, reference, model):
    assert of_likelihood(found[model]) == pytest.approx(measures(reference[model]), rel=1e-5)
    assert found[model]["n"] == DOCUMENTS


def test_differences_are_those_of_a_padded_batch(found, reference):
    for step, before, after in (("tuned_minus_base", "base", "tuned"), ("merged_minus_tuned", "tuned", "merged")):
        old, new = measures(reference[before]), measures(reference[after])
        moved = {name: found["differences"][step][name] for name in LIKELIHOODS}
        for name in LIKELIHOODS:
            assert moved[name]["difference"] == pytest.approx(new[name] - old[name], abs=1e-5 * abs(old[name]))
            assert moved[name]["low"] <= moved[name]["difference"] <= moved[name]["high"]


def test_each_source_and_each_length_has_the_numbers_of_its_documents(found, reference):
    groups = [(group, torch.arange(DOCUMENTS) % 3 == group["source"]) for group in found["by_source"]]
    lengths = reference["base"][:, 4]
    groups += [(group, (lengths >= group["from"]) & (lengths < group["to"])) for group in found["by_length"]]
    assert len(found["by_source"]) == 3 and len(found["by_length"]) > 1
    for group, chosen in groups:
        assert group["n"] == int(chosen.sum())
        for model in ("base", "tuned", "merged"):
            assert of_likelihood(group[model]) == pytest.approx(measures(reference[model][chosen]), rel=1e-5)


def test_scores_of_answers_are_those_of_sacrebleu_and_rouge_score(run, found):
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    rows = [orjson.loads(line) for line in (run.root / "generations.jsonl").read_bytes().splitlines()]
    references, rouge = [row["reference"] for row in rows], RougeScorer(["rougeL"])
    for model in ("base", "tuned", "merged"):
        answers = [row[model] for row in rows]
        each = [rouge.score(row["reference"], row[model])["rougeL"].fmeasure for row in rows]
        expected = {
            "exact_match": sum(a.strip() == r.strip() for a, r in zip(answers, references, strict=True)) / len(rows),
            "chrf": CHRF().corpus_score(answers, [references]).score,
            "bleu": BLEU().corpus_score(answers, [references]).score,
            "rouge_l": sum(each) / len(each),
        }
        assert {name: found[model][name] for name in TEXTS} == pytest.approx(expected, abs=1e-6)
        single = [CHRF().sentence_score(row[model], [row["reference"]]).score for row in rows]
        assert [row["scores"][model]["chrf"] for row in rows] == pytest.approx(single, abs=1e-6)
        assert [row["scores"][model]["rouge_l"] for row in rows] == pytest.approx(each, abs=1e-6)
    assert found["tuned"]["chrf"] > 0


@torch.no_grad()
def test_answers_are_those_that_plain_transformers_gives_one_by_one(run, found):
    tokenizer, lines = AutoTokenizer.from_pretrained(run.model), (run.root / "generations.jsonl").read_bytes()
    for name, model in plain_models(run):
        stops = model.generation_config.eos_token_id
        for line in map(orjson.loads, lines.splitlines()):
            ids = tokenizer(line["prompt"], add_special_tokens=False, return_tensors="pt")
            made = model.eval().generate(**ids, max_new_tokens=12, do_sample=False, eos_token_id=stops)
            text = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
            assert line[name] == text, (name, line["prompt"])


def test_every_chosen_request_is_a_row_right_or_wrong(run, found):
    rows = [orjson.loads(line) for line in (run.root / "generations.jsonl").read_bytes().splitlines()]
    assert len(rows) == found["tuned"]["n_generated"] == OWN["max_samples"]
    outcomes = [row["outcome"] for row in rows]
    better, worse = (outcomes.count(word) for word in ("better", "worse"))
    moved = (found["tuned"]["exact_match"] - found["base"]["exact_match"]) * len(rows)
    assert better - worse == pytest.approx(moved)
    assert better + worse + outcomes.count("tie") == len(rows)


def peak_bytes(work) -> int:
    """The most memory that this process held while ``work`` ran, in bytes beyond what it held before."""
    CLEAR.write_text("5")  # resets the peak to what is held now
    before = high_water()
    work()
    return high_water() - before


def high_water() -> int:
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


@pytest.mark.skipif(not CLEAR.exists(), reason="the kernel does not reset the peak")
def test_memory_does_not_grow_with_the_number_of_documents(run, tmp_path, monkeypatch):
    """1,000 documents need what 250 need; their logits alone would be 300 MB more."""
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 8 << 20)
    monkeypatch.setattr(scoring, "SCORED_AT_ONCE", 1024)
    model = llama(8000)
    many = type(run)(tmp_path)
    (tmp_path / "model").symlink_to(run.model)
    opened = {}
    for count in (250, 1000):
        write_data(many, conversations(count))
        many.rows.rename(tmp_path / f"{count}.arrow")
        opened[count] = PackedRows(tmp_path / f"{count}.arrow")
    found, peaks = {}, {}
    measure_likelihood(model, opened[250], SETTINGS)  # what is allocated once
    for count, rows in opened.items():
        peaks[count] = peak_bytes(
            lambda rows=rows, count=count: found.update({count: measure_likelihood(model, rows, SETTINGS)})
        )
    logits = [int(found[count].tokens.sum()) * 8000 * 4 for count in opened]
    assert logits[1] - logits[0] > 200 << 20
    assert peaks[1000] - peaks[250] < 80 << 20  # what allocators keep differs by a chunk or four
