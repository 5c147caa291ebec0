"""Adapters of several runs merged together: what they are part of, what waits for them, and what is refused."""

import json

import pytest

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.stages import CONFIGURED_STAGES, slice_of, stage_id

FILE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny", "tiny": {"corpus": "quickstart"}}}
BOTH = {"merge": {"adapters": [{"run": "a", "weight": 0.5}, {"run": "b", "weight": -0.25}]}}


def resolve(runs, **sections):
    return {run.name: run for run in resolve_runs(Layer("c.yaml", {**FILE, **sections, "runs": runs}), {}, "nowhere")}


def ids(run):
    return {stage: stage_id(run.config, stage) for stage in CONFIGURED_STAGES}


def job_table(runs, **sections):
    class Nothing:
        def outside(self, stage, config):
            return {}

    return JobTable(list(resolve(runs, **sections).values()), Nothing(), lambda stage: "code")


def merged(run, **merge):
    """Two runs, the second of which merges both as ``merge`` says; the first is ``run``."""
    return {"a": run, "b": {"merge": BOTH["merge"] | merge}}


def test_the_other_runs_are_part_of_the_merge_and_of_nothing_before_it():
    before = ids(resolve(merged({}))["b"])
    after = ids(resolve(merged({"train": {"seed": 7}}))["b"])
    assert {stage for stage in before if before[stage] != after[stage]} == {"merge_adapter"}
    own = ids(resolve({"a": {}, "b": {}})["b"])
    assert {stage for stage in before if before[stage] != own[stage]} == {"merge_adapter"}
    assert ids(resolve(merged({"merge": {"dtype": "float16"}}))["b"]) == before
    assert ids(resolve(merged({"evaluate": {"max_samples": 3}}))["b"]) == before


@pytest.mark.parametrize(
    ("changes", "matters"),
    [
        ({"method": "ties"}, True),
        ({"adapters": [{"run": "a"}, {"run": "b"}]}, True),
        ({"density": 0.25}, False),
        ({"seed": 1}, True),
        ({"rounding": "nearest"}, True),
        ({"gguf_converter": "convert.py"}, False),
    ],
)
def test_what_changes_a_sum_of_changes(changes, matters):
    one, two = (ids(resolve(merged({}, **more))["b"])["merge_adapter"] for more in ({}, changes))
    assert (one != two) == matters


def test_density_counts_where_numbers_are_pruned_and_the_seed_where_they_are_drawn():
    found = {
        method: set(slice_of(resolve(merged({}, method=method, dtype="float32"))["b"].config, "merge_adapter")["merge"])
        for method in ("cat", "ties", "dare_linear")
    }
    usual = {"enabled", "dtype", "max_shard_size", "adapters", "method", "identities"}
    assert found == {"cat": usual, "ties": usual | {"density"}, "dare_linear": usual | {"density", "seed"}}
    alone = slice_of(resolve({"a": {}})["a"].config, "merge_adapter")["merge"]
    assert set(alone) == {"enabled", "dtype", "max_shard_size", "rounding", "seed"}


def test_the_seed_of_rounding_counts_where_numbers_are_rounded_at_random():
    found = {
        (kind, dtype): {"rounding", "seed"}.intersection(
            slice_of(resolve({"a": {"merge": {"rounding": kind, "dtype": dtype}}})["a"].config, "merge_adapter")[
                "merge"
            ]
        )
        for kind in ("auto", "nearest", "stochastic")
        for dtype in ("auto", "bfloat16", "float32")
    }
    assert {key for key, keys in found.items() if "rounding" in keys} == {key for key in found if key[1] != "float32"}
    assert {key for key, keys in found.items() if "seed" in keys} == {
        key for key in found if key[1] != "float32" and key[0] != "nearest"
    }


def barriers(plan, run, **choice):
    return plan.barriers(plan.runs_before(plan.run_ids[run], run, **choice))["rightsize"]


def test_the_adapters_and_the_barriers_of_the_others_are_waited_for():
    plan = job_table(merged({"split": {"seed": 3}}) | {"c": {"model": {"name_or_path": "run:b"}}})
    run_id = plan.run_ids["b"]
    barrier = ids(plan.runs["a"])["rightsize"]
    assert plan.merged_manifests("b") == [plan.run_path(run, "adapter.manifest.json") for run in ("a", "b")]
    assert plan.merged_manifests("a") == []
    assert barriers(plan, "b", merging=False) == []
    assert barriers(plan, "b") == [barrier]
    assert barriers(plan, "c", merging=False) == sorted([barrier, ids(plan.runs["b"])["rightsize"]])
    assert [run.name for run in plan.runs_before(run_id, "b")] == ["a"]
    identities = json.loads(plan.run_spec("merge_adapter", "b"))["cfg"]["merge"]["identities"]
    assert set(identities) == {"a", "b"}


def test_a_run_that_goes_on_from_the_run_that_merges_it_is_no_circle():
    plan = job_table({"a": BOTH, "b": {"adapter": {"init_from": "run:a"}}})
    assert [run.name for run in plan.runs_before(plan.run_ids["a"], "a")] == ["b"]
    assert barriers(plan, "b", merging=False) == [ids(plan.runs["a"])["rightsize"]]
    both = job_table({"a": BOTH, "b": BOTH})
    assert both.merged_manifests("a") == both.merged_manifests("b")


def test_a_run_may_be_named_as_elsewhere_with_its_prefix():
    plan = job_table(merged({}, adapters=[{"run": "run:a"}, "b"]))
    assert plan.merged_manifests("b") == [plan.run_path(run, "adapter.manifest.json") for run in ("a", "b")]


@pytest.mark.parametrize(
    ("runs", "match"),
    [
        ({"a": {}, "b": {"merge": {"adapters": [{"run": "x"}]}}}, "names x, but there is no run 'x'"),
        ({"a": {}, "b": {"merge": {"adapters": [{"run": "a"}, {"run": "a"}]}}}, "names a twice"),
        ({"a": {}, "b": {"merge": {"adapters": [{"name": "a"}]}}}, "every entry must name a run"),
        ({"a": {}, "b": {"merge": {"adapters": 3}}}, "merge.adapters is 3"),
        ({"a": {}, "b": {"merge": {"adapters": [{"run": "a", "weight": ".nan"}]}}}, "merge.adapters is"),
        (merged({"model": {"tiny": {"seed": 5}}}), r"names a, whose adapter belongs to another base model \(tiny"),
        (merged({"model": {"name_or_path": "run:b"}}), r"circular \(b -> a -> b\)|circular \(a -> b -> a\)"),
        (merged({"adapter": {"type": "none"}}), "names a, which trains every weight"),
        (merged({"adapter": {"use_dora": True}}), "names a, which is DoRA"),
        (merged({"adapter": {"modules_to_save": ["lm_head"]}}), "names a, which has fully trained layers"),
        (merged({"adapter": {"r": 8}}, method="ties"), "needs equal ranks, and b has r 16 where a has r 8"),
        ({"a": {}, "b": {**BOTH, "adapter": {"type": "none"}}}, "adapter.type is none, which has no adapter"),
        (merged({}, method="mean"), "merge.method is 'mean'"),
        (merged({}, density=0), "merge.density is 0"),
    ],
)
def test_what_cannot_be_merged_together_is_one_sentence(runs, match):
    with pytest.raises(ConfigError, match=match) as raised:
        job_table(runs)
    assert "\n" not in str(raised.value)


def test_other_ranks_go_together_where_the_changes_are_joined():
    for method in ("cat", "svd"):
        job_table(merged({"adapter": {"r": 8}}, method=method))
    job_table(merged({"adapter": {"use_dora": True}}, enabled=False))
