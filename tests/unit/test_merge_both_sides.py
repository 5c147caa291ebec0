"""The gate's two questions on bfloat16 weights: right sums pass whatever rounding costs, wrong ones are refused."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import TinyRun, conversations, llama, save_adapter, write_run

from snaketune.core.errors import TrainingError
from snaketune.merge import adapter as adapters
from snaketune.merge import streaming
from snaketune.merge.combining import Combination, combine_adapters
from snaketune.merge.merge_inputs import MergeInputs
from snaketune.merge.merging import merge_adapter
from snaketune.merge.verification import logits, verify
from snaketune.merge.verification.divergence import Mean, ModelComparison
from snaketune.merge.verification.merge_gate import check_merged_folder

CFG = {"dtype": "auto", "max_shard_size": "5GB", "cpu_threads": 1, "attn_implementation": "sdpa"}
WEIGHTS = "adapter_model.safetensors"
# Square layers, so that a transposed factor has a shape that fits.
SQUARE = {"num_key_value_heads": 4, "intermediate_size": 32}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    torch.set_num_threads(1)
    return write_run(tmp_path_factory.mktemp("run"), conversations(12), torch.bfloat16, **SQUARE)


@pytest.fixture
def tiny(written, tmp_path):
    shutil.copytree(written.root, tmp_path / "run")
    return TinyRun(tmp_path / "run")


def merge(run, gate=check_merged_folder, **changes):
    material = MergeInputs(run.model, run.adapter, run.tokens / "chat_template.jinja", (run.rows,))
    return merge_adapter(material, CFG | changes, run.root / "merged", gate)["check"]


def shrink(run, factor):
    tensors = load_file(run.adapter / WEIGHTS)
    save_file({name: v * factor if "lora_B" in name else v for name, v in tensors.items()}, run.adapter / WEIGHTS)


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}], ids=["lora", "dora"])
@pytest.mark.parametrize("factor", [1, 3e-3], ids=["long run", "short run"])
def test_a_right_merge_passes_and_stochastic_rounding_keeps_the_change(tiny, changes, factor):
    shutil.rmtree(tiny.adapter)
    save_adapter(llama(300, **SQUARE).bfloat16(), tiny.adapter, **changes)
    shrink(tiny, factor)
    nearest, drawn = merge(tiny, rounding="nearest"), merge(tiny)
    for check in (nearest, drawn):
        assert check["relative_error_fp32"] < 1e-5 and check["logits_error"] < 1e-4
        assert check["file_logits_error"] < 1e-4
        assert 0 < check["moved"] < check["weights"]
    assert drawn["change_kept"] == pytest.approx(1, abs=0.1)
    if factor < 1:
        assert nearest["change_kept"] < 0.7
        assert nearest["moved"] < drawn["moved"]


def test_several_adapters_pass(tiny):
    other = tiny.root / "other"
    shutil.copytree(tiny.adapter, other)
    combined = tiny.root / "combined"
    combined.mkdir()
    combine_adapters(tiny.model, [tiny.adapter, other], Combination((0.7, -0.2)), combined)
    shutil.rmtree(tiny.adapter)
    combined.rename(tiny.adapter)
    check = merge(tiny)
    assert check["relative_error_fp32"] < 1e-5 and check["change_kept"] == pytest.approx(1, abs=0.1)


def test_weights_on_the_grid_of_four_bits_pass(tiny):
    """A base that was quantised once and written out in bfloat16: few different numbers, large steps between them."""
    path = tiny.model / "model.safetensors"
    steps = {
        name: (weight.float().abs().amax() / 7) if weight.dim() == 2 else None
        for name, weight in load_file(path).items()
    }
    weights = load_file(path)
    for name, step in steps.items():
        if step is not None:
            weights[name] = ((weights[name].float() / step).round() * step).bfloat16()
    save_file(weights, path, metadata={"format": "pt"})
    shrink(tiny, 1e-2)
    check = merge(tiny)
    assert check["change_kept"] == pytest.approx(1, abs=0.1) and check["logits_error"] < 1e-4


def wrong(monkeypatch, name, fault):
    right = getattr(adapters.LoadedAdapter, name)
    monkeypatch.setattr(adapters.LoadedAdapter, name, lambda self, *given: fault(right(self, *given), *given))


def refused(run, match):
    with pytest.raises(TrainingError, match=match):
        merge(run)
    assert not (run.root / "merged").exists()


@pytest.mark.parametrize("factor", [1, 3e-3], ids=["long run", "short run"])
@pytest.mark.parametrize("scale", [1.01, 0.5, -1, 0])
def test_a_wrong_scale_is_refused(tiny, monkeypatch, scale, factor):
    shrink(tiny, factor)
    wrong(monkeypatch, "scale", lambda found, module: found * scale)
    refused(tiny, "not base plus adapter: the relative error of the worst change is")


def test_a_wrong_scale_of_one_weight_is_refused(tiny, monkeypatch):
    wrong(monkeypatch, "scale", lambda found, module: found * (1.05 if "layers.1.mlp.down_proj" in module else 1))
    refused(tiny, "the relative error of the worst change is 0.05")


def test_a_transposed_factor_is_refused(tiny, monkeypatch):
    wrong(
        monkeypatch, "change", lambda found, module: found.T.contiguous() if found.shape[0] == found.shape[1] else found
    )
    refused(tiny, "not base plus adapter")


def test_a_layer_left_out_is_refused(tiny, monkeypatch):
    right = adapters.LoadedAdapter.modules.fget
    fewer = property(lambda self: [name for name in right(self) if "layers.1.self_attn" not in name])
    monkeypatch.setattr(adapters.LoadedAdapter, "modules", fewer)
    refused(
        tiny, "4 modules are changed by only one of PEFT and the merge; the first is model.layers.1.self_attn.k_proj"
    )


def test_a_sum_that_is_wrong_in_the_model_alone_is_refused_by_the_logits(tiny, monkeypatch):
    """The weights agree one by one, but the model that they are put into is not the one that was trained."""
    right = streaming.merged_weight

    def skips_one(base, adapter, module):
        weight = base.tensor(f"{module}.weight").float()
        return weight if "layers.0.mlp.up_proj" in module else right(base, adapter, module)

    monkeypatch.setattr(logits, "merged_weight", skips_one)
    refused(tiny, r"does not match the tuned one: logits_error 0\.\d+ \(limit 0.005\)")


def test_files_that_load_as_another_model_are_refused(tiny):
    def gate(folder, material, cfg):
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-01'))
        assert (folder / "config.json").read_text() != text
        return check_merged_folder(folder, material, cfg)

    with pytest.raises(TrainingError, match=r"does not match the tuned one: file_logits_error [\d.]+ \(limit 0.005\)"):
        merge(tiny, gate)


def test_what_the_number_format_costs_is_a_fact_and_stops_nothing(tiny, monkeypatch):
    shrink(tiny, 3e-3)
    found = merge(tiny, rounding="nearest")
    assert found["verdict"] == "equal" and found["change_kept"] < 0.7
    assert found["loss_change_interval"][0] <= found["loss_change"] <= found["loss_change_interval"][1]
    assert found["mean_kl_interval"][0] <= found["mean_kl"] <= found["mean_kl_interval"][1]
    monkeypatch.setattr(verify, "LOOK_KL", found["mean_kl"] / 2)
    assert merge(tiny, rounding="nearest") == found | {"verdict": "rounded"}


@pytest.mark.parametrize(
    ("change", "interval", "kl", "look"),
    [
        (0.0005, (0.0001, 0.0009), 2e-4, False),  # SmolLM2 after 29 steps, rounded to nearest, is no worse than this
        (0.1076, (0.08, 0.13), 1.8e-2, True),  # the same after 6 steps
        (0.01, (-0.01, 0.03), 2e-4, False),  # may be chance
        (0.01, (0.001, 0.02), 2e-4, True),
        (-0.01, (-0.02, -0.001), 2e-4, False),  # better is no reason to look
        (0.0, None, 2e-3, True),
    ],
)
def test_what_is_worth_a_look(change, interval, kl, look):
    found = ModelComparison(0.3, 0.3 + change, Mean(change, interval), Mean(kl, None), 100, 100)
    assert verify.is_worth_a_look(found) == look


@pytest.mark.parametrize(("room", "is_known"), [(1 << 40, True), (0, False)])
def test_a_gpu_without_room_leaves_the_logits_to_the_main_memory(tiny, monkeypatch, room, is_known):
    settings = verify.comparing_settings
    monkeypatch.setattr(verify, "comparing_settings", lambda proof: replace(settings(proof), dtype="bfloat16"))
    monkeypatch.setattr(verify.psutil, "virtual_memory", lambda: SimpleNamespace(available=room))
    check = merge(tiny)
    assert check["computed_in"] == "bfloat16" and check["relative_error_fp32"] < 1e-5
    found = [check[name] for name in ("logits_error", "file_logits_error")]
    assert all(error < 1e-4 for error in found) if is_known else found == [None, None]
