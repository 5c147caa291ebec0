import math
import runpy
import shutil
import sys
from pathlib import Path

import orjson
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_run import conversations, write_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from snaketune.core.errors import TrainingError
from snaketune.evaluate.evaluation import EvaluationInputs, EvaluationSettings, evaluate
from snaketune.evaluate.models import ModelSettings, attach_adapter, inference_dtype
from snaketune.evaluate.results import write_documents, write_generations

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate_model.py"
METRICS = ["loss", "perplexity", "bits_per_byte", "token_accuracy", "exact_match"]
OWN = {"metrics": METRICS, "max_samples": 6, "max_new_tokens": 5, "batch_size": 4, "latency_requests": 2}
NESTED = {
    "evaluate": OWN,
    "merge": {"enabled": True},
    "model": {"dtype": "auto", "attn_implementation": "auto", "trust_remote_code": False},
    "train": {"cpu_threads": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    run = write_run(tmp_path_factory.mktemp("run"), conversations(12))
    base = AutoModelForCausalLM.from_pretrained(run.model)
    PeftModel.from_pretrained(base, run.adapter).merge_and_unload().save_pretrained(run.root / "merged")
    AutoTokenizer.from_pretrained(run.model).save_pretrained(run.root / "merged")
    return run


def material(run, merged=None):
    return EvaluationInputs(run.model, run.adapter, merged, run.tokens, run.rows, run.records)


def settings(**changes):
    return EvaluationSettings.of_slice({**NESTED, "evaluate": OWN | changes})


def lines(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_merged_agrees_with_tuned_and_base_does_not(tiny):
    found = evaluate(material(tiny, tiny.root / "merged"), settings())
    base, tuned, merged = (found.facts[name] for name in ("base", "tuned", "merged"))
    assert set(base) - {"n_cut"} == {*METRICS, "n", "n_generated"}
    assert (base["n"], base["n_generated"]) == (12, 6)
    assert tuned["loss"] == pytest.approx(merged["loss"], rel=1e-5)
    assert abs(tuned["loss"] - base["loss"]) > 1e-3
    assert found.answers["tuned"] == found.answers["merged"] != found.answers["base"]


def test_base_is_the_base_model_untouched_by_the_adapter(tiny):
    found = evaluate(material(tiny), settings(metrics=["loss"]))
    as_base = EvaluationInputs(tiny.root / "merged", tiny.adapter, None, tiny.tokens, tiny.rows, tiny.records)
    swapped = evaluate(as_base, settings(metrics=["loss"]))
    assert set(found.facts) == {"base", "tuned", "differences", "by_source", "by_length"}
    assert found.facts["tuned"]["loss"] == pytest.approx(swapped.facts["base"]["loss"], rel=1e-5)


def test_files_hold_one_line_per_prompt_and_per_document(tiny, tmp_path):
    found = evaluate(material(tiny), settings())
    write_generations(tmp_path / "generations.jsonl", found)
    write_documents(tmp_path / "documents.jsonl", found)
    made, documents = lines(tmp_path / "generations.jsonl"), lines(tmp_path / "documents.jsonl")
    assert [line["record"] for line in made] == sorted(line["record"] for line in made)
    assert [key for key in made[0] if key != "cut"] == ["record", "prompt", "reference", "base", "tuned",
                                                        "base_match", "tuned_match", "outcome", "scores"]  # fmt: skip
    for name in ("base", "tuned"):
        assert sum(name in line.get("cut", ()) for line in made) == found.facts[name].get("n_cut", 0)
    assert made[0]["scores"]["base"] == {"exact_match": made[0]["base_match"]}
    assert sum(line["base_match"] for line in made) == found.facts["base"]["exact_match"] * 6
    assert [line["record"] for line in documents] == list(range(12))
    total = sum(line["tuned_nll"] for line in documents) / sum(line["tokens"] for line in documents)
    assert total == pytest.approx(found.facts["tuned"]["loss"], rel=1e-9)
    assert "merged_nll" not in documents[0]


def test_plain_text_has_likelihoods_and_no_answers(tmp_path):
    run = write_run(tmp_path, [{"source": 0, "line": n, "text": f"the lamp goes on at {n}"} for n in range(5)])
    found = evaluate(material(run), settings())
    assert set(found.facts["tuned"]) == {"loss", "perplexity", "bits_per_byte", "token_accuracy", "n"}
    assert math.isfinite(found.facts["tuned"]["bits_per_byte"])
    write_generations(tmp_path / "generations.jsonl", found)
    assert (tmp_path / "generations.jsonl").read_bytes() == b""


def test_stop_tokens_that_the_model_does_not_know_are_named(tiny, tmp_path):
    assert "stop_tokens" not in evaluate(material(tiny), settings(metrics=["loss"])).facts
    shutil.copytree(tiny.root, tmp_path / "run")
    run = type(tiny)(tmp_path / "run")
    configuration = run.model / "generation_config.json"
    configuration.write_bytes(orjson.dumps(orjson.loads(configuration.read_bytes()) | {"eos_token_id": 9}))
    assert evaluate(material(run), settings(metrics=["loss"])).facts["stop_tokens"] == [2, 9]


def test_only_what_was_asked_for_is_measured(tiny, tmp_path):
    found = evaluate(material(tiny), settings(metrics=["exact_match"]))
    assert set(found.facts["base"]) - {"n_cut"} == {"exact_match", "n_generated"}
    write_documents(tmp_path / "documents.jsonl", found)
    assert (tmp_path / "documents.jsonl").read_bytes() == b""


def test_an_adapter_that_does_not_fit_is_refused_not_ignored(tiny, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((tiny.adapter / "adapter_config.json").read_bytes())
    tensors = load_file(tiny.adapter / "adapter_model.safetensors")
    save_file({name.replace("layers.1.", "layers.7."): value for name, value in tensors.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    with pytest.raises(TrainingError, match="do not belong to this model's adapter"):
        attach_adapter(AutoModelForCausalLM.from_pretrained(tiny.model), folder)
    (folder / "adapter_model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(TrainingError, match="cannot be read"):
        attach_adapter(AutoModelForCausalLM.from_pretrained(tiny.model), folder)


def test_a_cpu_always_computes_in_float32():
    assert inference_dtype("bfloat16", torch.device("cpu")) == torch.float32
    assert inference_dtype("auto", torch.device("cpu")) == torch.float32


def test_flat_and_nested_slices_mean_the_same():
    flat = OWN | {"dtype": "float32", "attn_implementation": "sdpa", "cpu_threads": 1}
    found = EvaluationSettings.of_slice(flat)
    assert found.model == ModelSettings("float32", "sdpa", 1, False)
    assert found.metrics == settings().metrics
    assert settings().model.attn_implementation == "sdpa"


def test_the_script_writes_three_files_twice_the_same(tiny, tmp_path, monkeypatch):
    for attempt in ("first", "second"):
        spec = orjson.dumps({"stage": "evaluate_model", "code": "0", "cfg": NESTED}).decode()
        arguments = ["--spec", spec, "--model", tiny.model, "--adapter", tiny.adapter, "--merged", "--tokens",
                     tiny.tokens, "--rows", tiny.rows, "--records", tiny.records,
                     "--output", tmp_path / attempt / "evaluation.json",
                     "--generations", tmp_path / attempt / "generations.jsonl",
                     "--documents", tmp_path / attempt / "documents.jsonl",
                     "--info", tmp_path / attempt / "info.json"]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    for name in ("evaluation.json", "generations.jsonl", "documents.jsonl"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    facts = orjson.loads((tmp_path / "first" / "evaluation.json").read_bytes())
    assert set(facts) == {"format", "base", "tuned", "differences", "by_source", "by_length"}
    info = orjson.loads((tmp_path / "second" / "info.json").read_bytes())
    assert info["models"]["tuned"]["latency_requests"] == 2
    assert 0 < info["models"]["tuned"]["latency_median_s"] <= info["models"]["tuned"]["latency_p95_s"]
    assert info["models"]["base"]["tokens_per_second"] > 0


def test_a_model_without_a_right_answer_shows_what_it_wrote_instead(tiny, capsys):
    found = evaluate(material(tiny), settings(max_samples=2))
    assert found.facts["base"]["exact_match"] == 0
    first = found.held_out.prompts[0]
    assert (
        f"base answered nothing correctly; its first answer was {found.answers['base'][0]!r},"
        in capsys.readouterr().out
    )
    right = found.held_out.measures["base"]["exact_match"].parts
    right[0, 0] = 1
    assert found.held_out.example_if_none_is_right("base") is None and first.reference
