"""The keys of `train.method: grpo`: what they change, what does not go together, and the files of rewards."""

import ast
import importlib.util
from pathlib import Path

import pytest

from snaketune.config.consistency import check_run
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.train import run as run_module
from snaketune.train.packages import require_trl, require_vllm
from snaketune.workflow.sources.inputs import ExternalInputs
from snaketune.workflow.stages import stage_id

FILE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}}


def run(**sections):
    return resolve_runs(Layer("c", FILE), sections, "nowhere")[0]


def grpo(train=None, **keys):
    return run(train={"method": "grpo", "gradient_accumulation_steps": 2, **(train or {}), "grpo": keys})


def test_the_data_are_those_of_sft_and_keys_retrain_grpo_alone():
    assert stage_id(grpo().config, "pack_rows") == stage_id(run().config, "pack_rows")
    before, after = grpo().config, grpo(temperature=0.7).config
    assert stage_id(before, "train_model") != stage_id(after, "train_model")
    plain = run(train={"grpo": {"temperature": 0.7}}).config
    assert stage_id(plain, "train_model") == stage_id(run().config, "train_model")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"adapter": {"type": "none"}},
            r"which trains an adapter, and adapter\.type is none: set adapter\.type to lora",
        ),
        ({"model": {"quantization": "4bit"}}, r"model\.quantization is 4bit"),
        ({"train": {"eval_steps": 5}}, r"train\.eval_steps is 5: set train\.eval_steps to 0"),
        ({"train": {"optimizer_in_backward": True, "max_grad_norm": 0, "gradient_accumulation_steps": 1}}, "to false"),
        ({"data": {"format": "text"}}, "which has no prompts"),
        ({"plan": {"autotune": True}}, r"plan\.autotune is true: set plan\.autotune to false"),
        ({"train": {"gradient_accumulation_steps": 3}}, r"takes 12 answers .* not a multiple of .*num_generations 8"),
        ({"train": {"strategy": "ddp"}, "plan": {"num_gpus": 2}}, "supports one GPU only"),
        ({"train": {"grpo": {"rewards": ["exact"]}}}, "has 'exact', which is not a reward"),
        ({"train": {"grpo": {"rewards": ["nowhere.py:f"]}}}, r"there is no file nowhere\.py"),
        ({"train": {"grpo": {"rewards": ["length"], "reward_weights": [1, 2]}}}, "has 2 numbers for 1 rewards"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(sections, words):
    train = {"method": "grpo", "gradient_accumulation_steps": 2, **sections.get("train", {})}
    with pytest.raises(ConfigError, match=words):
        check_run(run(**{**sections, "train": train}))


def test_a_changed_reward_function_is_another_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    found = []
    for content in ("def f(*_): return 1\n", "def f(*_): return 2\n"):
        (tmp_path / "own.py").write_text(content)
        config = grpo(rewards=["own.py:f"]).config
        inputs = ExternalInputs(tmp_path / "digests.json")
        inputs.look_up(config)
        found.append(inputs.outside("train_model", config))
    assert found[0] != found[1] and found[0]["rewards"].keys() == {"own.py"}


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package trl.*envs/extras/grpo\.txt"):
        require_trl("grpo")
    require_trl("dpo")


def test_trl_is_imported_by_no_other_method():
    tops = [node for node in ast.parse(Path(run_module.__file__).read_text()).body if isinstance(node, ast.ImportFrom)]
    assert not [node.module for node in tops if "reinforcement" in (node.module or "")]


def test_vllm_is_passed_through_only_where_it_is_used(monkeypatch):
    pytest.importorskip("trl")
    from snaketune.train.reinforcement.grpo import own_arguments

    section = grpo(vllm_mode="server", vllm_server_base_url="http://localhost:8000").config.train.grpo.model_dump()
    assert not [name for name in own_arguments(section) if "vllm" in name]
    found = own_arguments(section | {"use_vllm": True})
    assert found["use_vllm"] is True
    assert (found["vllm_mode"], found["vllm_server_base_url"]) == ("server", "http://localhost:8000")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else True)
    require_vllm(False)
    with pytest.raises(ConfigError, match="needs the package vllm, which is not installed"):
        require_vllm(True)
