"""The identity of stages: what a key reruns, and that no key is dead."""

import typing

import pytest

from snaketune.config.known_keys import all_keys
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.config.schema import RunConfig
from snaketune.workflow.stages import (
    BEST_KEYS,
    CONFIGURED_STAGES,
    OPERATIONAL,
    identity,
    lineage,
    slice_of,
    stage_id,
    variants,
)

FILE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny", "tiny": {"corpus": "data"}}}


def config(**sections) -> RunConfig:
    return resolve_runs(Layer("c", FILE), sections, "nowhere")[0].config


def ids(config):
    return {stage: stage_id(config, stage) for stage in CONFIGURED_STAGES}


def changed(**sections):
    before, after = ids(config()), ids(config(**sections))
    return {stage for stage in CONFIGURED_STAGES if before[stage] != after[stage]}


AFTER_TRAIN = {"train_model", "merge_adapter", "evaluate_model"}


@pytest.mark.parametrize(
    ("sections", "stages"),
    [
        ({"train": {"learning_rate": 1e-3}}, AFTER_TRAIN),
        ({"tokens": {"max_length": 512}}, {"rightsize", "pack_rows", "plan_run", *AFTER_TRAIN}),
        ({"plan": {"price_per_gpu_hour": 2}}, {"plan_run"}),
        ({"train": {"num_train_epochs": 2}}, {"plan_run", *AFTER_TRAIN}),
        ({"evaluate": {"max_new_tokens": 9}}, {"evaluate_model"}),
        ({"merge": {"dtype": "float16"}}, {"merge_adapter"}),
        ({"train": {"save_steps": 7}}, set()),
        ({"paths": {"scratch": "/nvme"}}, set()),
        ({"split": {"seed": 3}}, set(CONFIGURED_STAGES) - {"stage_sources", "read_records", "dedupe_records"}),
        ({"model": {"revision": "v2"}}, set()),
    ],
)
def test_a_key_changes_its_stage_and_those_after_it(sections, stages):
    assert changed(**sections) == stages


def test_the_built_in_model_depends_on_the_data_only_when_it_learns_from_them():
    assert {"split_records", "prepare_tokenizer"} < set(lineage(config(), "prepare_model"))
    other = config(model={"name_or_path": "tiny", "tiny": {"corpus": "quickstart"}})
    assert lineage(other, "prepare_model") == ("prepare_tokenizer", "prepare_model")


def test_the_tiny_section_means_nothing_for_another_model():
    one = config(model={"name_or_path": "org/m"})
    two = config(model={"name_or_path": "org/m", "tiny": {"seed": 5}})
    assert ids(one) == ids(two)


def test_ids_are_readable():
    assert stage_id(config(), "read_records").startswith("a-")
    assert stage_id(config(), "train_model").startswith("lora-r16-")
    assert stage_id(config(model={"name_or_path": "Org/My_Model.v1"}), "prepare_model").startswith("my-model-v1-")


def test_runs_share_the_stages_whose_configuration_they_share():
    runs = resolve_runs(Layer("c", {**FILE, "runs": {"a": {}, "b": {"train": {"seed": 7}}}}), {}, "nowhere")
    stages = [stage for stage, _ in variants(runs)]
    assert {stage: stages.count(stage) for stage in CONFIGURED_STAGES} == {
        stage: 2 if stage in AFTER_TRAIN else 1 for stage in CONFIGURED_STAGES
    }


def another_value(key, annotation, value):
    """A valid value of the key that differs from ``value``."""
    if value == "auto" and bool in typing.get_args(annotation):
        return "false"
    if annotation == bool | None:
        return "true"
    if key == "train.grpo.reward_weights":
        return [0.5]
    if key == "merge.max_shard_size":
        return "1GB"
    if key == "tokens.date":
        return "2025-01-31"
    options = [option for part in (annotation, *typing.get_args(annotation)) for option in typing.get_args(part)]
    texts = [option for option in options if isinstance(option, str) and option != value]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    if key == "data.roles":
        return {"guest": "user"}
    if isinstance(value, dict):
        return {"prompt": "q" if "str, str" in str(annotation) else 3}
    if isinstance(value, list):
        return [*value[:-1]] if len(value) > 1 else texts[:1] or ["other"]
    if texts:
        return texts[0]
    return 64 if "int" in str(annotation) or "float" in str(annotation) else "other"


def annotation_of(key):
    model = RunConfig
    *sections, leaf = key.split(".")
    for section in sections:
        model = model.model_fields[section].annotation
    return model.model_fields[leaf].annotation


NAMES_ANOTHER_RUN = {"adapter.init_from", "merge.adapters"}  # tests of its own in test_config_runs.py


@pytest.mark.parametrize("key", sorted(set(all_keys()) - NAMES_ANOTHER_RUN))
def test_no_key_is_dead(key):
    near = {"near": True}  # without it the keys of its search mean nothing
    base = config(tokens={"max_length": "auto"}, dedupe=near)
    value = base.model_dump()
    for part in key.split("."):
        value = value[part]
    changed_value = another_value(key, annotation_of(key), value)
    sections: dict = {"dedupe": dict(near)}
    target = sections
    for part in key.split(".")[:-1]:
        target = target.setdefault(part, {})
    target[key.split(".")[-1]] = changed_value
    if key == "train.checkpoint_every_n_layers":
        base = config(dedupe=near, train={"gradient_checkpointing": True})
        sections["train"]["gradient_checkpointing"] = True
    if key == "evaluate.columns":
        base = config(dedupe=near, evaluate={"files": ["e.jsonl"]})
        sections["evaluate"]["files"] = ["e.jsonl"]
    if key in BEST_KEYS and not key.endswith(("_end", "_patience")):
        base = config(tokens={"max_length": "auto"}, dedupe=near, train={"eval_steps": 5, "early_stopping_patience": 2})
        sections["train"] |= {"eval_steps": 5, "early_stopping_patience": 2}
    if key.startswith(("train.dpo.", "train.orpo.", "train.kto.", "train.reward.", "train.grpo.")):
        method = key.split(".")[1]
        more = {"grpo": {"use_vllm": True}} if key.startswith("train.grpo.vllm_") else {}
        base = config(dedupe=near, train={"method": method, **more})
        sections["train"] |= {"method": method}
        sections["train"][method] |= more.get(method, {})
    if key in ("merge.method", "merge.density", "merge.seed"):
        several = {"adapters": [{"run": "default"}], "method": "dare_ties"}
        base = config(dedupe=near, merge=several)
        sections["merge"] = several | sections["merge"]
    if key == "model.revision":
        sections["model"]["name_or_path"] = "org/name"
        base = config(model={"name_or_path": "org/name"}, dedupe=near)
    after = config(**sections)
    slices = [stage for stage in CONFIGURED_STAGES if slice_of(base, stage) != slice_of(after, stage)]
    assert bool(slices) != (key in OPERATIONAL), (key, changed_value, slices)


def test_the_identity_is_stable():
    assert identity(config(), "train_model") == identity(config(), "train_model")
    assert len(identity(config(), "train_model")) == 8
