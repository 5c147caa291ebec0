"""The plan of a training by rewards: answers, steps, memory, and hours only where generation was measured."""

from dataclasses import replace

import pytest
from plan_case import PACK, inputs, plan_of
from test_plan_planning import A100, finished_run
from test_plan_probed import record

from snaketune.plan.costs.probed import describe_probe
from snaketune.plan.planning import make_plan
from snaketune.plan.summary import describe_plan

SPLIT = {"rows": 1760, "documents": 5000, "tokens": 1_750_000, "trainable_tokens": 1_000_000}
GIVEN = {"pack": PACK | {"splits": {"train": SPLIT, "eval": {}}}}
TRAIN = {"method": "grpo", "eval_steps": 0, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
ANSWERS = {"prompt_tokens": 150.0, "answer_tokens": 60.0, "generation_share": 0.8}


def planned(folder, given=None, plan=A100, model=None, **group):
    more = {"model": {"name_or_path": model}} if model else {}
    return plan_of(folder, GIVEN | (given or {}), plan=plan, train={**TRAIN, "grpo": group}, **more)


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory):
    return planned(tmp_path_factory.mktemp("plan"))


def test_without_a_measurement_hours_and_dollars_are_unknown_and_answers_are_counted(unmeasured):
    assert unmeasured["train_hours"] is unmeasured["hours"] is unmeasured["cost_usd"] is None
    assert "spends most of its time generating answers" in unmeasured["rate"]["source"]
    work = unmeasured["work"]
    assert (work["answers"], work["generated_tokens"]) == (40_000, 8_000_000)
    assert unmeasured["tokens_total"] == 40_000 * (150 + 200)
    assert unmeasured["about"]["tokens_total"]["origin"] == "estimated"
    assert unmeasured["steps"] == 40_000 / 16
    assert {cell["train_hours"] for row in unmeasured["fit"] for cell in row["methods"].values()} == {None}
    words = "40,000 answers in one epoch, of 200 tokens each (taken to be as long as the references): 8,000,000 tokens"
    assert words in " ".join(unmeasured["notes"])
    assert words in describe_plan(unmeasured, "g")


def test_a_probe_gives_the_hours_the_dollars_and_the_length_of_an_answer(tmp_path):
    plan = planned(tmp_path, {"probe": record(answers=ANSWERS)}, max_completion_length=100)
    tokens = 40_000 * (150 + 60)
    assert plan["tokens_total"] == tokens
    assert plan["train_hours"] == pytest.approx(tokens / 12_000 / 3600, rel=1e-4)
    assert plan["about"]["cost_usd"]["origin"] == "measured" and plan["cost_usd"] > 0
    told = " ".join(plan["notes"])
    assert "of 60 tokens each (by the probe)" in told and "generation takes 80% of the time" in told
    assert (
        "Generation: 80% of the time, answers of 60 tokens to prompts of 150"
        in describe_probe(record(answers=ANSWERS))[1]
    )


def test_a_probe_with_the_first_model_of_a_chain_tells_the_speed_and_not_the_length(tmp_path):
    base = planned(tmp_path, {"probe": record(answers=ANSWERS)})
    given = replace(inputs(tmp_path, plan=A100, train={**TRAIN, "grpo": {"rewards": ["length"]}}), **GIVEN)
    given = replace(given, probe=record(answers=ANSWERS))
    given.cfg["model"]["name_or_path"], given.cfg["train"]["grpo"]["rewards"] = "run:sft", ["run:rm"]
    plan = make_plan(given)
    assert plan["tokens_total"] == 40_000 * 350 > base["tokens_total"]
    told = " ".join(plan["notes"])
    assert "with the base model of the chain" in told and "exclude scoring by reward models" in told


def test_answers_no_longer_than_their_limit_and_steps_follow_the_iterations(tmp_path, unmeasured):
    plan = planned(tmp_path, max_completion_length=50, num_iterations=2)
    assert plan["work"]["generated_tokens"] == 40_000 * 50
    assert plan["steps"] == 2 * unmeasured["steps"]
    assert plan["tokens_total"] == 40_000 * 200


def test_memory_has_keys_and_values_of_what_is_generated_at_once(tmp_path, unmeasured):
    # Llama 2 7B: 32 layers, 32 heads of 128, in 16 bits; 16 answers of up to 1,000 + 256 tokens.
    cache = 2 * 32 * 32 * 128 * 2 * 16 * 1256 / 1e9
    parts = unmeasured["memory"]
    others = parts["activations"] + parts["head"] + parts["workspace"]
    assert parts["cache"] == pytest.approx(max(cache - others, 0), rel=1e-4)
    assert parts["head"] == pytest.approx(16 * 8 * 256 * 32000 / 1e9, rel=1e-4)
    more = planned(tmp_path, use_vllm=True, vllm_gpu_memory_utilization=0.4)
    assert more["memory"]["cache"] == pytest.approx(0.4 * 80, rel=0.1)


def test_a_run_of_the_same_kind_measures_and_other_groups_do_not(tmp_path, unmeasured):
    finished_run(tmp_path, planned(tmp_path), "first")
    assert planned(tmp_path)["about"]["hours"]["origin"] == "measured"
    assert planned(tmp_path, num_generations=4)["about"]["hours"]["origin"] != "measured"
