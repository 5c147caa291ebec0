"""Runs that start from other runs: identities, the template they inherit, and what is refused."""

import pytest
import yaml
from report_case import facts_with

from snaketune.config.consistency import check_run
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.report.run.reproducing import config_file
from snaketune.workflow import job_environment
from snaketune.workflow.job_environment import REQUIREMENTS, machine_notes, require_packages
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.stages import CONFIGURED_STAGES, DATA_STAGES, slice_of, stage_id

FILE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny", "tiny": {"corpus": "quickstart"}}}
SFT, FROM_SFT = {"sft": {}}, {"model": {"name_or_path": "run:sft"}}


def resolve(runs, **sections):
    return {run.name: run for run in resolve_runs(Layer("c.yaml", {**FILE, **sections, "runs": runs}), {}, "nowhere")}


def ids(run):
    """The id of each stage whose result is part of what a run is."""
    return {stage: stage_id(run.config, stage) for stage in CONFIGURED_STAGES if stage != "plan_run"}


def job_table(runs, **sections):
    return JobTable(list(resolve(runs, **sections).values()), None, lambda stage: "code")


def refused(match, runs, **sections):
    with pytest.raises(ConfigError, match=match) as raised:
        job_table(runs, **sections)
    assert "\n" not in str(raised.value)


def test_a_run_from_a_run_shares_its_data_stages_and_no_more():
    runs = resolve({**SFT, "dpo": FROM_SFT})
    first, second = ids(runs["sft"]), ids(runs["dpo"])
    assert {stage for stage in first if first[stage] == second[stage]} == set(DATA_STAGES)


def test_whatever_changes_the_earlier_run_changes_this_one_and_not_its_data():
    before = ids(resolve({**SFT, "dpo": FROM_SFT})["dpo"])
    for change in ({"train": {"learning_rate": 1e-3}}, {"merge": {"dtype": "float16"}}, {"split": {"seed": 9}}):
        after = ids(resolve({"sft": change, "dpo": FROM_SFT})["dpo"])
        changed = {stage for stage in before if before[stage] != after[stage]}
        assert changed == {"prepare_model", "train_model", "merge_adapter", "evaluate_model"}
    assert ids(resolve({"sft": {"evaluate": {"max_samples": 3}}, "dpo": FROM_SFT})["dpo"]) == before


def test_a_chain_of_three_depends_on_its_first():
    def third(**first):
        runs = {"one": first, "two": {"model": {"name_or_path": "run:one"}}}
        return ids(resolve({**runs, "three": {"model": {"name_or_path": "run:two"}}})["three"])

    assert third()["train_model"] != third(train={"seed": 7})["train_model"]
    assert third()["tokenize_records"] == third(train={"seed": 7})["tokenize_records"]


def test_a_tiny_model_that_learned_from_other_data_is_another_tokenizer():
    tiny = {"model": {"name_or_path": "tiny", "tiny": {"corpus": "data"}}}
    other = {"model": {"name_or_path": "run:sft"}, "data": {"sources": ["b.jsonl"]}}
    one, two = (ids(resolve({"sft": {"split": {"seed": n}}, "next": other}, **tiny)["next"]) for n in (1, 2))
    assert one["split_records"] == two["split_records"]
    assert one["tokenize_records"] != two["tokenize_records"]


def test_the_template_of_the_earlier_run_is_in_force():
    runs = {
        "sft": {"tokens": {"chat_template": "chatml"}},
        "dpo": FROM_SFT,
        "own": FROM_SFT | {"tokens": {"chat_template": "plain"}},
    }
    found = resolve({**runs, "on": {"adapter": {"init_from": "run:sft"}}})
    assert found["dpo"].flat()["tokens.chat_template"] == {"value": "chatml", "origin": "run sft"}
    assert found["own"].config.tokens.chat_template == "plain"
    assert found["on"].config.tokens.chat_template == "chatml"


def test_going_on_from_an_adapter_shares_everything_before_training():
    runs = resolve({**SFT, "on": {"adapter": {"init_from": "run:sft"}}, "fresh": {}})
    first, second = ids(runs["sft"]), ids(runs["on"])
    after = {"train_model", "merge_adapter", "evaluate_model"}
    assert {stage for stage in first if first[stage] != second[stage]} == after
    other = resolve({"sft": {"train": {"seed": 3}}, "on": {"adapter": {"init_from": "run:sft"}}})
    assert ids(other["on"])["train_model"] != second["train_model"]


def test_paths_and_barriers_of_what_a_run_starts_from():
    plan = job_table(
        {
            **SFT,
            "dpo": FROM_SFT,
            "on": {"adapter": {"init_from": "run:sft"}},
            "last": {"model": {"name_or_path": "run:dpo"}},
        }
    )
    merged = plan.run_path("sft", "merge.json")
    base = plan.upstream(plan.run_ids["dpo"], "dpo")["prepare_model"]
    assert plan.base_manifest(base) == plan.base_manifest(plan.run_ids["dpo"], "dpo") == merged
    assert plan.base_manifest(plan.run_ids["sft"], "sft") is plan.start_manifest("dpo") is None
    assert plan.start_manifest("on") == plan.run_path("sft", "adapter.manifest.json")
    assert plan.runs_before(plan.run_ids["sft"], "sft") == []
    sft, dpo = (ids(plan.runs[name]) for name in ("sft", "dpo"))
    assert plan.barriers(plan.runs_before(plan.run_ids["last"], "last")) == {
        "rightsize": [sft["rightsize"]],
        "prepare_model": sorted([sft["prepare_model"], dpo["prepare_model"]]),
    }
    tokens = plan.upstream(ids(plan.runs["dpo"])["tokenize_records"])
    assert tokens["prepare_tokenizer"] == sft["prepare_tokenizer"]
    assert "prepare_model" not in tokens


@pytest.mark.parametrize(
    ("runs", "match"),
    [
        ({**SFT, "b": {"model": {"name_or_path": "run:stf"}}}, "there is no run 'stf': this configuration has sft"),
        ({"b": {"model": {"name_or_path": "run:b"}}}, r"circular \(b -> b\)"),
        (
            {"a": {"model": {"name_or_path": "run:b"}}, "b": {"adapter": {"init_from": "run:a"}}},
            r"circular \(a -> b -> a\)",
        ),
        ({"sft": {"merge": {"enabled": False}}, "b": FROM_SFT}, "runs.sft.merge.enabled to true"),
        ({**SFT, "b": {"adapter": {"init_from": "sft"}}}, "adapter.init_from is 'sft'"),
        ({**SFT, "b": {"adapter": {"init_from": "run:sft", "r": 8}}}, "adapter.r is 16 where this run has 8"),
        ({**SFT, "b": {"adapter": {"init_from": "run:sft"}, **FROM_SFT}}, "another base model"),
        ({"sft": {"adapter": {"type": "none"}}, "b": {"adapter": {"init_from": "run:sft"}}}, "has no adapter"),
        ({**SFT, "b": {"adapter": {"init_from": "run:sft", "type": "none"}}}, "set model.name_or_path to run:sft"),
        ({"b": {"adapter": {"type": "none"}, "model": {"quantization": "4bit"}}}, "set adapter.type to lora"),
        ({"b": {"adapter": {"type": "none"}, "model": {"dtype": "float16"}}}, "model.dtype to auto"),
        ({"b": {"train": {"fp8": True}, "model": {"quantization": "8bit"}}}, "set one of the two to its default"),
    ],
)
def test_what_cannot_be_is_one_sentence(runs, match):
    refused(match, runs)


def test_another_dropout_goes_on_from_the_same_adapter():
    for run in resolve({**SFT, "b": {"adapter": {"init_from": "run:sft", "lora_dropout": 0.1}}}).values():
        check_run(run)


def test_settings_of_adapters_mean_nothing_for_a_full_training():
    one, two = (resolve({"a": {"adapter": {"type": "none", "r": r}}})["a"] for r in (4, 8))
    assert ids(one) == ids(two)
    assert ids(one)["train_model"].startswith("full-")
    assert slice_of(one.config, "train_model")["adapter"] == {"type": "none"}


def test_names_say_the_method():
    def name(bits):
        return ids(resolve({"a": {"model": {"quantization": bits}}})["a"])["train_model"].rsplit("-", 1)[0]

    assert [name(bits) for bits in ("none", "8bit", "4bit")] == ["lora-r16", "lora8bit-r16", "qlora-r16"]


def test_a_missing_package_is_named_by_the_stages_that_need_it_and_by_no_other(monkeypatch):
    import importlib.util

    def require(stage, **sections):
        require_packages("a", resolve({"a": sections})["a"].config, stage)

    four = {"model": {"quantization": "4bit"}}
    for stage in REQUIREMENTS:
        require(stage, **four)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for stage in ("train_model", "evaluate_model", "probe_run", "ablate_run"):
        with pytest.raises(ConfigError, match=r"run a: .*bitsandbytes, .*: pip install -r envs/extras/quan"):
            require(stage, **four)
        require(stage)
    require("prepare_tokenizer", **four)
    assert "plan_run" not in REQUIREMENTS, "a plan reads no weights"
    with pytest.raises(ConfigError, match=r"run a: train\.strategy: deepspeed_zero3 needs DeepSpeed"):
        require("train_model", train={"strategy": "deepspeed_zero3"}, plan={"num_gpus": 2})
    with pytest.raises(ConfigError, match=r"run a: train\.optim: paged_adamw_8bit needs the package bitsandbytes"):
        require("train_model", train={"optim": "paged_adamw_8bit"})


def test_quantised_weights_without_a_gpu_are_announced(monkeypatch, tmp_path):
    runs = list(resolve({"a": {"model": {"quantization": "4bit"}}, "b": {}}).values())
    monkeypatch.setattr(job_environment, "DRIVER", tmp_path / "none")
    assert [note[:40] for note in machine_notes(runs)] == ["model.quantization of a: there is no NVI"]
    assert machine_notes(runs[1:]) == []
    monkeypatch.setattr(job_environment, "DRIVER", tmp_path)
    assert machine_notes(runs) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"trust_remote_code": True}}, "with your permissions"),
        ({"adapter": {"type": "none"}}, "train.learning_rate: 0.0002"),
        ({"adapter": {"type": "none"}, "model": {"dtype": "bfloat16"}, "train": {"learning_rate": 1e-5}}, "bfloat16"),
        ({"model": {"quantization": "8bit"}}, "the adapter is merged into the original weights"),
    ],
)
def test_notes(changes, words):
    assert any(words in note for note in resolve({"a": changes})["a"].notes)


def test_no_notes_on_usual_choices():
    assert resolve({"a": {}, "b": {"adapter": {"type": "none"}, "train": {"learning_rate": 1e-5}}})["b"].notes == ()


def test_the_report_prints_a_configuration_of_the_whole_chain():
    runs = {"sft": {"train": {"learning_rate": 1e-3}}, "dpo": FROM_SFT | {"adapter": {"rank_pattern": {"q_proj": 2}}}}
    found = resolve(runs)
    run = {"run": "dpo", "config": found["dpo"].flat(), "earlier": {"sft": found["sft"].flat()}}
    again = {
        run.name: run for run in resolve_runs(Layer("c", yaml.safe_load(config_file(facts_with(run=run)))), {}, "")
    }
    assert {name: ids(again[name]) for name in again} == {name: ids(found[name]) for name in found}
