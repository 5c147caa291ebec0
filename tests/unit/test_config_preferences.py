"""The keys of `train.method: orpo` and `kto`: what they change, and what does not go together with them."""

import pytest

from snaketune.config.consistency import check_run
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.train.preference.reference_cache import preference_settings
from snaketune.workflow.stages import slice_of, stage_id

FILE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}}
KEYS = [("orpo", "beta"), ("kto", "beta"), ("kto", "desirable_weight"), ("kto", "undesirable_weight")]


def run(**sections):
    return resolve_runs(Layer("c", FILE), sections, "nowhere")[0]


@pytest.mark.parametrize(("method", "key"), KEYS)
def test_a_key_of_a_method_retrains_that_method_alone(method, key):
    before, after = (run(train={"method": method, method: keys}).config for keys in ({}, {key: 0.7}))
    assert stage_id(before, "train_model") != stage_id(after, "train_model")
    assert stage_id(before, "pack_rows") == stage_id(after, "pack_rows")
    assert stage_id(run().config, "train_model") == stage_id(run(train={method: {key: 0.7}}).config, "train_model")


def test_what_is_left_of_the_section_makes_the_loss(tmp_path):
    cfg = slice_of(run(train={"method": "orpo", "orpo": {"beta": 0.7}}).config, "train_model")
    assert preference_settings(cfg, tmp_path, (), tmp_path)["loss"].beta == 0.7


@pytest.mark.parametrize(
    ("method", "sections", "words"),
    [
        ("kto", {"data": {"format": "text"}}, r"data\.format is text, which has no answers"),
        (
            "orpo",
            {"data": {"format": "messages"}},
            "which has no chosen and rejected answers",
        ),
        ("kto", {"tokens": {"on_too_long": "truncate"}}, "truncated answers cannot be compared"),
        ("orpo", {"tokens": {"assistant_only_loss": False}}, "only the answers are compared"),
        ("kto", {"train": {"strategy": "ddp"}, "plan": {"num_gpus": 2}}, "supports one GPU only"),
        ("orpo", {"plan": {"num_gpus": 2}}, r"set train\.strategy to single and plan\.num_gpus to 1"),
        (
            "kto",
            {"train": {"eval_steps": 5, "load_best_model_at_end": True, "metric_for_best_model": "reward_accuracy"}},
            "kto does not measure during training: use loss or reward_margin",
        ),
    ],
)
def test_what_does_not_go_together_is_one_sentence(method, sections, words):
    sections = {**sections, "train": {"method": method, **sections.get("train", {})}}
    with pytest.raises(ConfigError, match=f"train.*{words}"):
        check_run(run(**sections))


def test_kto_takes_labelled_answers_of_any_format():
    for format in ("auto", "messages", "prompt_completion", "preference", "instruction", "sharegpt"):
        check_run(run(train={"method": "kto"}, data={"format": format}))
