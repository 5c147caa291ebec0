"""Vision-language checkpoints as text models: the text model is trained, all else goes through the merge untouched."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING
from trip import take

from snaketune.model.architecture import auto_class
from snaketune.model.miniature import miniature


def gemma3():
    return miniature(CONFIG_MAPPING["gemma3"](), 2)


def qwen2_5_vl():
    full = CONFIG_MAPPING["qwen2_5_vl"]()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 32, "out_hidden_size": 32}
    text = miniature(full, 2).text_config.to_dict() | {"rope_parameters": rope}
    return type(full)(text_config=text, vision_config={**vision, "fullatt_block_indexes": [1]})


@pytest.mark.parametrize("make", [gemma3, qwen2_5_vl])
def test_the_text_model_is_trained_and_the_rest_carried_through(tmp_path, make):
    found = take(tmp_path, make())
    assert found.error is None
    assert "(not part of the text model)" in found.printed
    base, merged = (load_file(tmp_path / part / "model.safetensors") for part in ("source", "merged"))
    assert set(base) == set(merged)
    moved = {name for name in base if not torch.equal(base[name], merged[name])}
    assert len(moved) == 14
    assert not [name for name in moved if "vis" in name or "projector" in name]
    assert [name for name in base if "vis" in name]


def test_a_vision_language_model_without_a_causal_class_is_opened_as_what_it_is():
    assert auto_class(qwen2_5_vl()).__name__ == "AutoModelForImageTextToText"
    assert auto_class(gemma3()).__name__ == "AutoModelForCausalLM"
