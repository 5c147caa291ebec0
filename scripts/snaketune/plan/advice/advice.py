"""Advice on method, preset and strategy: a table of rules, each with its reason.

The rules are the decision flows of the comparisons that the project started from, where those are right: tight memory →
a quantised base, a large shift of domain → all weights, otherwise an adapter; then preferences → DPO. They are shown,
never imposed. A rule that needs an unknown fact (None) does not apply.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlanSituation:
    """The facts known before a run; None means unknown."""

    makes_it_fit: str | None = None
    """The settings with which a run fits; None if it fits as configured."""
    adapter_fits: bool | None = None
    """Whether an adapter on a 16-bit base fits the GPU, at any checkpointing level."""
    eight_bit_fits: bool | None = None
    """Whether an adapter on an 8-bit base fits."""
    quantized_fits: bool | None = None
    """Whether an adapter on a 4-bit base fits."""
    full_fits: bool | None = None
    """Whether training all weights fits, sharded over the available GPUs."""
    domain_shift: bool = False
    """Whether the data differ strongly from the base model's training data (another language, another notation)."""
    learns_by: str = "sft"
    """``train.method``, or dpo if the data hold chosen and rejected answers."""
    is_tuned: bool = False
    """Whether the base has already learned the task from examples."""
    first_training: bool = False
    needs_certainty: bool = False
    """Whether the run must reproduce the documented baseline at any cost."""
    longest_record: int | None = None
    """Tokens."""
    model_context: int | None = None
    """Tokens."""
    hours: float | None = None
    """Planned hours on one GPU."""
    deadline_hours: float | None = None
    gpus: int = 1
    cost_usd: float | None = None
    max_cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """A choice on one topic, with its reason as a clause."""

    topic: str
    choice: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A choice that applies if its condition holds and no earlier rule on its topic applied."""

    topic: str
    choice: str
    applies: Callable[[PlanSituation], bool]
    reason: str


def _exceeds(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit


RULES: tuple[Rule, ...] = (
    Rule(
        "method",
        "smaller model",
        lambda s: s.quantized_fits is False,
        "even an adapter on a 4-bit base does not fit this GPU",
    ),
    Rule(
        "method",
        "8bit",
        lambda s: s.adapter_fits is False and s.eight_bit_fits is True,
        "a 16-bit base does not fit this GPU; an 8-bit base does, at the price of slower steps",
    ),
    Rule(
        "method",
        "4bit",
        lambda s: s.adapter_fits is False,
        "a 16-bit base does not fit this GPU; a 4-bit base does, at the price of slower steps",
    ),
    Rule(
        "method",
        "full",
        lambda s: s.domain_shift and s.full_fits is True,
        "the data are far from what the base model knows, and full fine-tuning fits",
    ),
    Rule(
        "method",
        "lora",
        lambda s: s.domain_shift and s.full_fits is not True,
        "the data are far from what the base model knows, but full fine-tuning does not fit: use a high rank",
    ),
    Rule("method", "lora", lambda s: True, "a 16-bit base with an adapter is fastest where it fits"),
    Rule("training", "grpo", lambda s: s.learns_by == "grpo", "a reward says how good an answer is"),
    Rule("training", "kto", lambda s: s.learns_by == "kto", "answers that are labelled one by one suffice for it"),
    Rule(
        "training",
        "reward",
        lambda s: s.learns_by == "reward",
        "it learns from pairs to score answers, for GRPO and to judge models; it answers nothing itself",
    ),
    Rule(
        "training",
        "orpo",
        lambda s: s.learns_by == "orpo",
        "one run teaches the chosen answers and to prefer them, without a reference",
    ),
    Rule(
        "training",
        "sft, then dpo",
        lambda s: s.learns_by == "dpo" and not s.is_tuned,
        "preferences teach which answer is better, not how to answer: train on the chosen answers first",
    ),
    Rule("training", "dpo", lambda s: s.learns_by == "dpo", "the data hold chosen and rejected answers"),
    Rule("training", "sft", lambda s: True, "the data are examples of answers"),
    Rule("preset", "baseline", lambda s: s.needs_certainty, "it is identical to the documented baseline"),
    Rule(
        "preset",
        "optimized",
        lambda s: s.first_training,
        "a first training should show the value of the data before effective batch and learning rate are raised",
    ),
    Rule("preset", "fast", lambda s: True, "same training, least waste"),
    Rule(
        "length",
        "model with a longer context",
        lambda s: _exceeds(s.longest_record, s.model_context),
        "the longest record exceeds what the model can attend to",
    ),
    Rule(
        "strategy",
        "several GPUs",
        lambda s: _exceeds(s.hours, s.deadline_hours) and s.gpus > 1,
        "one GPU misses the deadline; more GPUs save time, not money",
    ),
    Rule(
        "strategy",
        "less training",
        lambda s: _exceeds(s.hours, s.deadline_hours),
        "the only GPU here misses the deadline: fewer epochs, less data or a smaller model",
    ),
    Rule(
        "strategy",
        "single",
        lambda s: s.hours is not None and s.deadline_hours is not None,
        "one GPU meets the deadline; several are cheaper only if their speed-up exceeds the price ratio",
    ),
    Rule(
        "cost",
        "cheaper GPU or less training",
        lambda s: _exceeds(s.cost_usd, s.max_cost_usd),
        "the planned cost exceeds plan.max_cost_usd",
    ),
)


NOT_AS_CONFIGURED = "the run does not fit this device as configured, and this is the smallest change"


def advise(situation: PlanSituation) -> list[Advice]:
    """Return one piece of advice per topic with an applicable rule, in the order of the table."""
    given: dict[str, Advice] = {}
    if situation.makes_it_fit:
        given["method"] = Advice("method", situation.makes_it_fit, NOT_AS_CONFIGURED)
    # The first rule of a topic that applies wins, so RULES is ordered from the narrowest condition to the default.
    for rule in RULES:
        if rule.topic not in given and rule.applies(situation):
            given[rule.topic] = Advice(rule.topic, rule.choice, rule.reason)
    return list(given.values())
