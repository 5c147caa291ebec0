"""What is refused of adapters, quantised bases and model folders, each in one sentence; what is published."""

import importlib.util
import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from tiny_run import conversations, llama, write_run

from snaketune.config.schema import AdapterConfig, ModelConfig
from snaketune.config.schema_train import TrainConfig
from snaketune.core.errors import ConfigError, DataError, TrainingError
from snaketune.core.manifest import write_manifest
from snaketune.evaluate.evaluation import EvaluationInputs, EvaluationSettings, evaluate
from snaketune.train.checkpoints.weight_publishing import publish_weights
from snaketune.train.device import Device, prepare_arithmetic
from snaketune.train.facts import trained_parameters, training_facts
from snaketune.train.loading.adapting import add_adapter
from snaketune.train.loading.loading import base_dtype, load_base
from snaketune.train.loading.origins import find_origins
from snaketune.train.loading.quantization import quantization_config
from snaketune.train.packages import spare_unused, versions

GPU = Device("cuda", has_bf16=True, has_tf32=True)
OLD_GPU = Device("cuda", has_bf16=False, has_tf32=False)


def adapter(**changes):
    return AdapterConfig(r=4, **changes).model_dump()


def configuration(model=None, **adapter_changes):
    return {
        "train": TrainConfig(cpu_threads=1).model_dump(),
        "adapter": adapter(**adapter_changes),
        "model": ModelConfig(name_or_path="x", **(model or {})).model_dump(),
    }


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"rank_pattern": {"down_proj": 40}},
            r"adapter.rank_pattern: 40 exceeds the layer .*down_proj .*32 or less",
        ),
        ({"rank_pattern": {"over_proj": 4}}, "adapter.rank_pattern: 'over_proj' matches no adapted layer"),
        ({"alpha_pattern": {"lm_head": 4}}, "adapter.alpha_pattern: 'lm_head' matches no adapted layer"),
        ({"rank_pattern": {"down_proj(": 4}}, "is not a regular expression"),
        ({"modules_to_save": ["embed"]}, "no module embed: use some of .*embed_tokens"),
        ({"target_modules": ["c_attn"]}, "adapter.target_modules: .*q_proj"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(changes, match):
    with pytest.raises(ConfigError, match=match) as raised:
        add_adapter(llama(300), adapter(**changes))
    assert "\n" not in str(raised.value)


def test_a_rank_that_fits_every_layer_but_one_names_that_one():
    with pytest.raises(ConfigError, match=r"adapter.r: 20 exceeds the layer .*k_proj \(32 x 16\): use 16"):
        add_adapter(llama(300), adapter() | {"r": 20})
    add_adapter(llama(300), adapter(target_modules=["q_proj"]) | {"r": 20})


def test_a_quantised_layer_cannot_be_trained_whole(tmp_path):
    llama(300).save_pretrained(tmp_path)
    cfg = configuration({"quantization": "4bit"}, modules_to_save=["down_proj"], target_modules=["q_proj"])
    with pytest.raises(ConfigError, match="down_proj is quantised"):
        add_adapter(load_base(tmp_path, cfg, prepare_arithmetic(1)), cfg["adapter"])


def test_quantising_twice_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": {"bits": 4}}))
    with pytest.raises(ConfigError, match="already quantised"):
        quantization_config("4bit", torch.bfloat16, tmp_path)


def test_a_missing_package_is_one_sentence_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -r envs/extras/quantization\.txt .*quantization to none"):
        quantization_config("8bit", torch.bfloat16, tmp_path)
    with pytest.raises(ConfigError, match="pip install"):
        versions(configuration({"quantization": "4bit"}))
    assert quantization_config("none", torch.bfloat16, tmp_path) is None


def test_four_bits_are_nf4_twice_quantised(tmp_path):
    llama(300).save_pretrained(tmp_path)
    config = quantization_config("4bit", torch.bfloat16, tmp_path)
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert quantization_config("8bit", torch.bfloat16, tmp_path).load_in_8bit


@pytest.mark.parametrize(
    ("kind", "dtype", "device", "expected"),
    [
        ("lora", "auto", GPU, torch.bfloat16),
        ("lora", "auto", OLD_GPU, torch.float16),
        ("none", "auto", GPU, torch.float32),
        ("none", "bfloat16", GPU, torch.bfloat16),
        ("lora", "auto", Device("cpu", False, False), torch.float32),
    ],
)
def test_number_formats_of_the_weights(kind, dtype, device, expected):
    assert base_dtype({"adapter": {"type": kind}, "model": {"dtype": dtype}}, device) == expected


def test_trained_weights_are_float32_on_a_half_precision_base_unless_asked():
    for asked, expected in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        chosen = adapter(dtype=asked, use_dora=True, modules_to_save=["lm_head"])
        model = add_adapter(llama(300).to(torch.bfloat16), chosen)
        trained = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
        assert any("modules_to_save" in name for name in trained)
        wanted = {name: torch.float32 if "magnitude" in name else expected for name in trained}
        assert trained == wanted


def test_everything_is_trained_without_an_adapter():
    model = llama(300)
    assert add_adapter(model, adapter(type="none")) is model
    assert all(p.requires_grad for p in model.parameters())


def test_an_adapter_of_another_shape_is_no_start(tmp_path):
    first = add_adapter(llama(300), adapter())
    first.save_pretrained(tmp_path)
    start = tmp_path / "adapter_model.safetensors"
    for changes, match in (
        ({"rank_pattern": {"q_proj": 2}}, "size mismatch"),
        ({"target_modules": ["q_proj"]}, "tensors are missing or unknown"),
    ):
        with pytest.raises(TrainingError, match=match) as raised:
            add_adapter(llama(300), adapter(**changes), start)
        assert "\n" not in str(raised.value)
    with pytest.raises(TrainingError, match="do not fit"):
        add_adapter(llama(300), adapter(), tmp_path / "absent.safetensors")


def test_a_checkpoint_of_all_weights_becomes_a_model_folder(tmp_path):
    checkpoint, base, target = (tmp_path / name for name in ("checkpoint", "base", "target"))
    llama(300).save_pretrained(base)
    trained = llama(300)
    trained.config.use_cache = False
    trained.save_pretrained(checkpoint, max_shard_size="40KB")
    for extra in ("optimizer.pt", "trainer_state.json"):
        (checkpoint / extra).write_text("x")
    publish_weights(checkpoint, target, base, "org/name", None)
    names = {path.name for path in target.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors.index.json"} <= names
    assert sum(name.endswith(".safetensors") for name in names) > 2 and "optimizer.pt" not in names
    assert json.loads((target / "config.json").read_text()).get("use_cache", True) is True
    assert trained_parameters(target) == sum(p.numel() for p in trained.parameters())


def test_facts_of_an_adapter_and_of_a_model(tmp_path):
    (tmp_path / "adapter").mkdir()
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step":1,"loss":2.0,"tokens":7}\n')
    save_file({"a.lora_A.weight": torch.zeros(2, 3)}, tmp_path / "adapter" / "adapter_model.safetensors")
    facts = training_facts(tmp_path / "adapter", metrics, 100, 1, "f", {"base": "b"}, {"torch": "2"})
    assert (facts["trainable_parameters"], facts["total_parameters"], facts["trained"]) == (6, 106, "adapter")
    assert facts["origins"] == {"base": "b"}
    (tmp_path / "whole").mkdir()
    save_file({"w": torch.zeros(10, 10)}, tmp_path / "whole" / "model.safetensors")
    facts = training_facts(tmp_path / "whole", metrics, 100, 1, "f", {}, {})
    assert (facts["trainable_parameters"], facts["total_parameters"], facts["trained"]) == (100, 100, "every weight")


def test_origins_follow_the_weights(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"one")
    manifest = tmp_path / "adapter.manifest.json"
    write_manifest(manifest, "train_model", [folder], {})
    base = {"weights_digest": "w", "configuration_digest": "c"}
    first = find_origins(base, str(manifest))
    assert first.start == folder / "adapter_model.safetensors" and first.digests["base"] == "w"
    (folder / "adapter_model.safetensors").write_bytes(b"two")
    with pytest.raises(DataError):
        find_origins(base, str(manifest))
    write_manifest(manifest, "train_model", [folder], {})
    assert find_origins(base, str(manifest)).digests != first.digests
    assert find_origins(base, None).digests == {"base": "w", "configuration": "c"}


def test_a_quantised_run_is_measured_as_it_was_trained_and_merged_into_the_original(tmp_path):
    run = write_run(tmp_path, conversations(8))
    cfg = {"metrics": ["loss"], "max_samples": 0, "max_new_tokens": 1, "batch_size": 1, "cpu_threads": 1}
    found = {}
    for setting in ("none", "4bit"):
        settings = EvaluationSettings.of_slice(cfg | {"quantization": setting})
        material = EvaluationInputs(run.model, run.adapter, run.model, run.tokens, run.rows, run.records)
        found[setting] = evaluate(material, settings).facts
    said = {name: found["4bit"][name].get("quantization") for name in ("base", "tuned", "merged")}
    assert said == {"base": "4bit", "tuned": "4bit", "merged": None}
    assert found["4bit"]["merged"] == found["none"]["merged"]
    for name in ("base", "tuned"):
        assert found["4bit"][name]["loss"] != found["none"][name]["loss"]


@pytest.mark.parametrize(
    ("cfg", "is_used"),
    [
        ({"model": {"quantization": "none"}, "train": {"optim": "adamw_torch_fused"}}, False),
        ({"model": {}}, False),
        ({"quantization": "4bit"}, True),
        ({"model": {"quantization": "none"}, "train": {"optim": "paged_adamw_8bit"}}, True),
    ],
)
def test_a_package_that_compiles_kernels_is_imported_only_where_it_is_used(cfg, is_used, monkeypatch):
    for name in ("bitsandbytes", "boto3"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    spare_unused(cfg)
    assert ("bitsandbytes" not in sys.modules) == is_used
    # As PEFT, transformers and accelerate look for them.
    assert importlib.util.find_spec("boto3") is None
    assert is_used or importlib.util.find_spec("bitsandbytes") is None
