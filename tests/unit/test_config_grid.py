"""A grid of values becomes runs that share what they can."""

import pytest

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.workflow.stages import stage_id

FILE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}}


def runs(entries, **command_line):
    return resolve_runs(Layer("config.yaml", {**FILE, "runs": entries}), command_line, "nowhere")


def test_every_combination_is_a_run_named_after_its_values():
    found = runs({"sweep": {"grid": {"train.learning_rate": ["1e-4", 2e-4], "adapter.r": [8, 32]}}, "plain": {}})
    assert [run.name for run in found] == [
        "plain",
        "sweep-learning_rate-0.0001-r-32",
        "sweep-learning_rate-0.0001-r-8",
        "sweep-learning_rate-0.0002-r-32",
        "sweep-learning_rate-0.0002-r-8",
    ]
    assert [(run.config.train.learning_rate, run.config.adapter.r) for run in found[1:]] == [
        (1e-4, 32),
        (1e-4, 8),
        (2e-4, 32),
        (2e-4, 8),
    ]
    assert [run.grid for run in found] == ["", *["sweep"] * 4]
    assert found[1].origins["adapter.r"] == "runs.sweep-learning_rate-0.0001-r-32 in config.yaml"


def test_they_share_every_stage_that_the_values_do_not_touch():
    found = runs({"sweep": {"grid": {"train.learning_rate": [1e-4, 2e-4], "tokens.max_length": [128, 256]}}})
    ids = {
        stage: {stage_id(run.config, stage) for run in found}
        for stage in ("tokenize_records", "rightsize", "train_model")
    }
    assert {stage: len(values) for stage, values in ids.items()} == {
        "tokenize_records": 1,
        "rightsize": 2,
        "train_model": 4,
    }


def test_a_grid_lies_over_the_keys_of_its_run_and_comes_from_the_command_line_too():
    entry = {"train": {"seed": 5}, "grid": {"train.learning_rate": ["1e-4", "2e-4"], "train.bf16": ["auto", "false"]}}
    found = runs({}, runs={"a": entry})
    assert found[0].name == "a-learning_rate-0.0001-bf16-auto"
    assert {run.config.train.seed for run in found} == {5}


def test_ambiguous_ends_long_names_and_lists_have_names_too():
    found = runs({"a": {"grid": {"train.seed": [1, 2], "split.seed": [3]}}})
    assert found[0].name == "a-train.seed-1-split.seed-3"
    long = runs({"a": {"grid": {"adapter.target_modules": [["q_proj", "v_proj"], "all-linear", ["q_proj"] * 9]}}})
    assert all(len(run.name) <= 64 for run in long) and len({run.name for run in long}) == 3
    assert [run.name for run in long] == [
        run.name
        for run in runs(
            {"a": {"grid": {"adapter.target_modules": [["q_proj", "v_proj"], "all-linear", ["q_proj"] * 9]}}}
        )
    ]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"train.seed": list(range(13)), "adapter.r": [1, 2, 4, 8, 16]}, r"65 combinations \(13 x 5\), more than 64"),
        ({"train.seed": []}, "train.seed is .*must be a list of one or more values"),
        ({"train.seed": 5}, "train.seed is 5, but must be a list"),
        ({}, "write dotted keys"),
        ([1], "write dotted keys"),
        ({"train.learning_rate": [1e-4, "1e-4"]}, "twice"),
        ({"train.lr": [1]}, "runs.a.grid: train.lr is not a key here"),
        ({"train.max_steps": [1]}, "in the grid and in the run itself"),
        ({"preset": ["fast"]}, "preset is not a key of a run"),
        ({"train.seed": ["x"]}, "train.seed is 'x'"),
    ],
)
def test_what_cannot_be_meant_is_refused(grid, words):
    with pytest.raises(ConfigError, match=words):
        runs({"a": {"train": {"max_steps": 3}, "grid": grid}})


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ConfigError, match="makes a run named a-seed-1, which already exists"):
        runs({"a-seed-1": {}, "a": {"grid": {"train.seed": [1]}}})
