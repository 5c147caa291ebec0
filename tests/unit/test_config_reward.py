"""Reward models in a configuration: what trains by them and is judged by them, and what does not go together."""

from unittest import mock

import pytest
from test_config_runs import ids, job_table, refused, resolve

from snaketune.core.errors import ConfigError
from snaketune.workflow.asking import ask_spec
from snaketune.workflow.stages import DATA_STAGES

GRPO = {"method": "grpo", "gradient_accumulation_steps": 2}
RM = {"data": {"sources": ["p.jsonl"]}, "train": {"method": "reward"}}


def chain(rm=None, **own):
    """A reward model, a run trained by it and a run judged by it, both from one start."""
    start = {"model": {"name_or_path": "run:sft"}}
    return {
        "sft": {},
        "rm": {**RM, **start, **(rm or {})},
        "grpo": {**start, "train": {**GRPO, "grpo": {"rewards": ["run:rm"]}, **own}},
        "judged": {"evaluate": {"reward_model": "run:rm"}},
    }


def test_a_reward_model_is_part_of_what_is_trained_and_judged_by_it():
    before = resolve(chain())
    after = resolve(chain(rm={"train": {"method": "reward", "seed": 7}}))
    stages = {
        name: {stage for stage in ids(before[name]) if ids(before[name])[stage] != ids(after[name])[stage]}
        for name in before
    }
    assert stages["sft"] == set()
    assert stages["rm"] == {"train_model", "merge_adapter", "evaluate_model"}
    assert stages["grpo"] == {"train_model", "merge_adapter", "evaluate_model"}
    assert stages["judged"] == {"evaluate_model"}
    assert ids(before["rm"])["split_records"] != ids(before["sft"])["split_records"]
    assert {ids(before["grpo"])[stage] == ids(before["sft"])[stage] for stage in DATA_STAGES} == {True}


def test_jobs_take_the_merged_reward_model_and_wait_for_its_barriers():
    table = job_table(chain())
    assert table.reward_merges("grpo") == [table.run_path("rm", "merge.json")]
    assert table.reward_merges("judged") == table.reward_merges("rm") == []
    assert table.judge_merge("judged") == table.run_path("rm", "merge.json")
    assert table.judge_merge("grpo") is None
    before = table.runs_before(table.run_ids["grpo"], "grpo", merging=False)
    assert [run.name for run in before] == ["rm", "sft"]
    assert [run.name for run in table.runs_judging("judged")] == ["rm", "sft"]
    assert table.runs_before(table.run_ids["judged"], "judged", merging=False) == []


def test_a_reward_model_is_not_exported_and_not_asked():
    table = job_table(chain())
    assert not [path for path in table.gguf_files() if "/rm/" in path]
    assert [path for path in table.gguf_files() if "/sft/" in path]
    with pytest.raises(ConfigError, match="ask: run rm trains a reward model"):
        ask_spec(mock.Mock(runs=table.runs), {"run": "rm"})


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ({"rm": {}, "g": {"train": {**GRPO, "grpo": {"rewards": ["run:rm"]}}}}, "names rm, whose train.method is sft"),
        ({"rm": RM, "g": {"evaluate": {"reward_model": "run:no"}}}, "there is no run 'no'"),
        ({"rm": RM, "g": {"evaluate": {"reward_model": "rm"}}}, "which is not a run: write run:<name>"),
        ({"g": {"train": {**GRPO, "grpo": {"rewards": ["run:g"]}}}}, "circular"),
        ({"rm": {**RM, "merge": {"enabled": False}}, "g": {"evaluate": {"reward_model": "run:rm"}}}, "no merged model"),
        ({"rm": RM, "g": {"model": {"name_or_path": "run:rm"}}}, "which gives scores and no text"),
        ({"rm": RM, "g": {"adapter": {"init_from": "run:rm"}}}, "which gives scores and no text"),
        ({"s": {}, "rm": {**RM, "adapter": {"init_from": "run:s"}}}, "whose adapter has no head for scores"),
        ({"rm": {**RM, "evaluate": {"reward_model": "run:rm"}}}, "which generates no answers|circular"),
        ({"rm": {**RM, "model": {"quantization": "4bit"}}}, r"model\.quantization is 4bit: set"),
        ({"rm": {**RM, "evaluate": {"tasks": ["t.yaml"]}}}, r"which generates no answers, and evaluate\.tasks"),
        ({"rm": {**RM, "data": {"format": "text"}}}, "has no chosen and rejected answers"),
        ({"rm": RM, "g": {"merge": {"adapters": ["rm"]}}}, "names rm, which is a reward model"),
        (
            {"rm": {**RM, "tokens": {"chat_template": "{{ x }}"}}, "g": {"evaluate": {"reward_model": "run:rm"}}},
            "a reward model scores text in the form that it was trained on",
        ),
    ],
)
def test_what_does_not_go_together_is_one_sentence(runs, words):
    refused(words, runs)
