"""A fully fine-tuned model goes through the same rule as an adapter: checked, rounded as asked, made a whole model."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import TinyRun, conversations, llama, write_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from snaketune.core.errors import TrainingError
from snaketune.evaluate.evaluation import EvaluationInputs, EvaluationSettings, evaluate
from snaketune.evaluate.models import is_whole_model
from snaketune.merge.merge_inputs import MergeInputs
from snaketune.merge.merging import merge_adapter
from snaketune.merge.rounding import step_of
from snaketune.merge.verification.merge_gate import check_merged_folder

CFG = {"dtype": "auto", "max_shard_size": "5GB", "cpu_threads": 1, "attn_implementation": "sdpa"}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def written(request, tmp_path_factory):
    """A base stored in a dtype, and what a training made of it in float32."""
    torch.set_num_threads(1)
    run = write_run(tmp_path_factory.mktemp("run"), conversations(12), request.param)
    shutil.rmtree(run.adapter)
    trained = llama(300).to(request.param).float()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trained.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    trained.save_pretrained(run.adapter)
    return run


@pytest.fixture
def tiny(written, tmp_path):
    shutil.copytree(written.root, tmp_path / "run")
    return TinyRun(tmp_path / "run")


def merge(run, **changes):
    material = MergeInputs(run.model, run.adapter, run.tokens / "chat_template.jinja", (run.rows,))
    return merge_adapter(material, CFG | changes, run.root / "merged", check_merged_folder)


def stored(run):
    return next(iter(load_file(run.model / WEIGHTS).values())).dtype


def refused(run, match):
    with pytest.raises(TrainingError, match=match) as raised:
        merge(run)
    assert not (run.root / "merged").exists()
    assert "\n" not in str(raised.value)


def spoil(run, change):
    save_file(change(load_file(run.adapter / WEIGHTS)), run.adapter / WEIGHTS, metadata={"format": "pt"})


def is_beside(found, exact):
    return bool(((found.float() - exact.float()).abs() <= step_of(found, found.dtype)).all())


def test_it_is_published_in_the_format_of_the_base_and_proven_the_same_model(tiny):
    assert is_whole_model(tiny.adapter)
    check = merge(tiny)["check"]
    merged, trained = (load_file(folder / WEIGHTS) for folder in (tiny.root / "merged", tiny.adapter))
    assert {weight.dtype for weight in merged.values()} == {stored(tiny)}
    assert all(is_beside(merged[name], weight) for name, weight in trained.items())
    assert check["verdict"] == "equal" and check["mean_kl"] < 1e-3
    assert check["change_kept"] == pytest.approx(1, abs=0.01)
    assert check["tensors_merged"] == check["adapter_tensors"] == len(trained)
    assert AutoModelForCausalLM.from_pretrained(tiny.root / "merged", dtype="auto").dtype == stored(tiny)
    assert AutoTokenizer.from_pretrained(tiny.root / "merged").chat_template


def test_another_number_format_and_shards(tiny):
    facts = merge(tiny, dtype="float32", max_shard_size="20KB")
    assert facts["dtype"] == "float32" and facts["check"]["mean_kl"] < 1e-9
    assert len(list((tiny.root / "merged").glob("*.safetensors"))) > 3


def test_a_model_that_did_not_change_is_refused(tiny):
    shutil.copyfile(tiny.model / WEIGHTS, tiny.adapter / WEIGHTS)
    refused(tiny, "differs from the base model")


def test_weights_that_are_not_finite_are_refused(tiny):
    spoil(tiny, lambda tensors: tensors | {"model.norm.weight": torch.full((32,), float("nan"))})
    refused(tiny, "model.norm.weight is not finite: lower train.learning_rate")


def test_weights_of_a_compiled_model_are_refused(tiny):
    spoil(tiny, lambda tensors: {f"_orig_mod.{name}": weight for name, weight in tensors.items()})
    refused(tiny, "_orig_mod.* was saved from a compiled model")


def test_missing_weights_are_refused(tiny):
    (tiny.adapter / WEIGHTS).unlink()
    refused(tiny, "no weights found")


def test_base_tuned_and_merged_are_measured_one_after_the_other(tiny):
    merge(tiny)
    settings = EvaluationSettings.of_slice(
        {"metrics": ["loss", "exact_match"], "max_samples": 2, "max_new_tokens": 3, "batch_size": 2, "cpu_threads": 1}
    )
    material = EvaluationInputs(tiny.model, tiny.adapter, tiny.root / "merged", tiny.tokens, tiny.rows, tiny.records)
    facts = evaluate(material, settings).facts
    assert abs(facts["base"]["loss"] - facts["tuned"]["loss"]) > 0.01
    assert facts["merged"]["loss"] == pytest.approx(facts["tuned"]["loss"], rel=5e-3)
    assert all(facts[name]["n_generated"] == 2 for name in ("base", "tuned", "merged"))


def test_a_tokenizer_without_pad_and_end_is_evaluated_like_any_other(tiny):
    import orjson

    path = tiny.model / "tokenizer_config.json"
    settings = orjson.loads(path.read_bytes())
    path.write_bytes(orjson.dumps({k: v for k, v in settings.items() if k not in ("pad_token", "eos_token")}))
    cfg = {"metrics": ["exact_match"], "max_samples": 3, "max_new_tokens": 3, "batch_size": 3, "cpu_threads": 1}
    material = EvaluationInputs(tiny.model, tiny.adapter, None, tiny.tokens, tiny.rows, tiny.records)
    assert evaluate(material, EvaluationSettings.of_slice(cfg)).facts["tuned"]["n_generated"] == 3
