"""Vision-language checkpoints as text models: the text model is trained, all else goes through the merge untouched."""

import pytest
import torch
from first_step import LAYOUTS, write_rows
from safetensors.torch import load_file
from tiny_models import configuration
from transformers import CONFIG_MAPPING
from trip import SETTINGS, run_of, take, write_model

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.model.architecture import auto_class
from snaketune.model.miniature import miniature
from snaketune.train.device import find_device
from snaketune.train.run import build_trainer
from snaketune.workflow.stages import slice_of


def gemma3():
    return miniature(CONFIG_MAPPING["gemma3"](), 2)


def qwen2_5_vl():
    full = CONFIG_MAPPING["qwen2_5_vl"]()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 32, "out_hidden_size": 32}
    text = miniature(full, 2).text_config.to_dict() | {"rope_parameters": rope}
    return type(full)(text_config=text, vision_config={**vision, "fullatt_block_indexes": [1]})


def qwen3_5():
    return configuration("qwen3_5")


def llama4():
    return configuration("llama4")


@pytest.mark.parametrize("make", [gemma3, qwen2_5_vl, qwen3_5, llama4])
def test_the_text_model_is_trained_and_the_rest_carried_through(tmp_path, make):
    found = take(tmp_path, make())
    assert found.error is None
    assert "(not part of the text model)" in found.printed
    base, merged = (load_file(tmp_path / part / "model.safetensors") for part in ("source", "merged"))
    assert set(base) == set(merged)
    moved = {name for name in base if not torch.equal(base[name], merged[name])}
    assert len(moved) >= 14
    assert not [name for name in moved if "vis" in name or "projector" in name]
    assert [name for name in base if "vis" in name]


@pytest.mark.parametrize("make", [gemma3, llama4])
def test_packed_documents_stay_apart_in_training(tmp_path, make):
    """The text model has a setting of its own for the cache, with which transformers does not look at positions."""
    write_model(write_rows(tmp_path) / "source", make())
    losses = []
    for name in LAYOUTS.values():
        rows = PackedRows(tmp_path / name / "rows" / "eval.arrow")
        cfg = slice_of(run_of(tmp_path, {"train": {"per_device_train_batch_size": 4}}, full=False), "train_model")
        trainer = build_trainer(tmp_path / "source", rows, rows, cfg, SETTINGS, tmp_path / "work", find_device())
        batch = next(iter(trainer.get_train_dataloader()))
        del batch["facts"]
        losses.append(float(trainer.compute_loss(trainer.model, batch).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_vision_language_model_without_a_causal_class_is_opened_as_what_it_is():
    assert auto_class(qwen2_5_vl()).__name__ == "AutoModelForImageTextToText"
    assert auto_class(gemma3()).__name__ == "AutoModelForCausalLM"


def test_a_checkpoint_with_more_than_a_text_model_is_opened_whole_and_one_without_is_not():
    whole = qwen3_5()
    assert auto_class(whole).__name__ == "AutoModelForImageTextToText"
    whole.architectures = ["Qwen3_5ForCausalLM"]
    assert auto_class(whole).__name__ == "AutoModelForCausalLM"
