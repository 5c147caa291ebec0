"""The decision table: one choice per topic, with its reason."""

import pytest

from snaketune.plan.advice.advice import RULES, PlanSituation, advise


def choices(**facts):
    return {advice.topic: advice.choice for advice in advise(PlanSituation(**facts))}


def test_without_knowledge_an_adapter_on_examples_with_our_preset():
    assert choices() == {"method": "lora", "training": "sft", "preset": "fast"}


@pytest.mark.parametrize(
    ("facts", "method"),
    [
        ({"adapter_fits": True, "quantized_fits": True}, "lora"),
        ({"adapter_fits": False, "quantized_fits": True}, "4bit"),
        ({"adapter_fits": False, "quantized_fits": False}, "smaller model"),
        ({"domain_shift": True, "full_fits": True}, "full"),
        ({"domain_shift": True, "full_fits": False}, "lora"),
        ({"domain_shift": True}, "lora"),
        ({"domain_shift": True, "adapter_fits": False, "full_fits": False}, "4bit"),
        ({"domain_shift": False, "full_fits": True}, "lora"),
    ],
)
def test_method(facts, method):
    assert choices(**facts)["method"] == method


@pytest.mark.parametrize(
    ("facts", "training"),
    [
        ({"learns_by": "dpo"}, "sft, then dpo"),
        ({"learns_by": "dpo", "is_tuned": True}, "dpo"),
        ({"learns_by": "orpo"}, "orpo"),
        ({"learns_by": "reward"}, "reward"),
        ({"learns_by": "kto"}, "kto"),
        ({"learns_by": "grpo"}, "grpo"),
        ({}, "sft"),
    ],
)
def test_training(facts, training):
    assert choices(**facts)["training"] == training


@pytest.mark.parametrize(
    ("facts", "preset"),
    [({"needs_certainty": True, "first_training": True}, "baseline"), ({"first_training": True}, "optimized")],
)
def test_preset(facts, preset):
    assert choices(**facts)["preset"] == preset


@pytest.mark.parametrize(
    ("facts", "strategy"),
    [
        ({"hours": 38.0, "deadline_hours": 24.0, "gpus": 4}, "several GPUs"),
        ({"hours": 38.0, "deadline_hours": 24.0}, "less training"),
        ({"hours": 10.0, "deadline_hours": 24.0, "gpus": 4}, "single"),
        ({"hours": 10.0}, None),
    ],
)
def test_strategy(facts, strategy):
    assert choices(**facts).get("strategy") == strategy


def test_length_and_cost_are_only_mentioned_when_they_exceed():
    assert "model with a longer context" in choices(longest_record=5000, model_context=4096).values()
    assert "length" not in choices(longest_record=4096, model_context=4096)
    assert choices(cost_usd=96.0, max_cost_usd=95.0)["cost"] == "cheaper GPU or less training"
    assert "cost" not in choices(cost_usd=96.0)


def test_every_advice_has_a_reason_and_every_rule_can_win():
    assert all(len(advice.reason) > 20 for advice in advise(PlanSituation()))
    last = {rule.topic: index for index, rule in enumerate(RULES)}
    for index, rule in enumerate(RULES):
        if rule.applies(PlanSituation()):
            assert index == last[rule.topic], "a rule that always applies hides those after it"
