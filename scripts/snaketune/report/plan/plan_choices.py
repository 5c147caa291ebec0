"""Choices: the presets compared with the run, and a few questions that each lead to a command."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.core.canonical import canonical_text
from snaketune.facts.plan_facts import Plan, RemedyFacts
from snaketune.facts.plan_table_facts import PresetRow
from snaketune.report import units
from snaketune.report.compare.comparison import compared_dollars
from snaketune.report.plan.plan_tables import UNKNOWN, size_in_gb, time
from snaketune.report.run.reproducing import shown_value

TRAIN_COMMAND = "snakemake --cores all train"
SAME_TIME = 0.005


@dataclass(frozen=True, slots=True)
class Question:
    """A question with the command for yes; ``is_answered`` if the plan knows that the answer is yes."""

    question: str
    command: str
    reason: str
    is_answered: bool = False


def flow(plan: Plan) -> list[Question]:
    """Return the questions in their order: the first that is answered with yes decides."""
    advice = {one["topic"]: one["choice"] for one in plan["advice"]}
    fits, is_first = not plan["remedy"], advice.get("preset") == "optimized"
    found = [_remedy(plan["remedy"])] if plan["remedy"] else []
    if advice.get("training", "sft") != "sft":
        method, two = advice["training"], advice["training"] == "sft, then dpo"
        words = "two runs: sft on the chosen answers, then dpo with model.name_or_path: run:<the first>"
        found.append(
            Question(
                "Do the data say which answers are better?",
                words if two else f"{TRAIN_COMMAND} --config 'train={{method: {method}}}'",
                "preferences teach which answer is better, not how to answer; docs/methods.md compares the methods",
                True,
            )
        )
    return [
        *found,
        Question(
            "Is the memory tight?",
            f"{TRAIN_COMMAND} --config preset=low_memory",
            "a 4-bit base, a micro-batch of 1 and every layer recomputed; slower",
        ),
        Question(
            "Do you need a result like the documented baseline, whatever it costs?",
            f"{TRAIN_COMMAND} --config preset=baseline",
            "float32, padded rows: no shortcuts",
        ),
        Question(
            "Is it the first training on these data?",
            f"{TRAIN_COMMAND} --config preset=optimized",
            "it shows the value of the data before batch and learning rate are raised",
            fits and is_first,
        ),
        Question(
            "None of these: are you repeating what worked?",
            f"{TRAIN_COMMAND} --config preset=fast",
            "same training, least waste",
            fits and advice.get("preset") == "fast",
        ),
    ]


def _remedy(remedy: RemedyFacts) -> Question:
    """Return the question that comes first where a run does not fit, with the settings that make it fit."""
    changes = remedy["changes"]
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, name = key.split(".", 1)
        sections.setdefault(section, {})[name] = value
    words = " ".join(f"'{name}={{{_pairs(keys)}}}'" for name, keys in sections.items())
    command = f"{TRAIN_COMMAND} --config {words}" if words else "choose a smaller model or a device with more memory"
    return Question("Does the run exceed the memory of its device?", command, "yes, as configured", True)


def _pairs(keys: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}: {value if isinstance(value, str) else canonical_text(value)}" for key, value in keys.items()
    )


def presets(plan: Plan) -> list[dict[str, str]]:
    """Return this run and every preset: steps, training, dollars, memory, and the time against this run's."""
    rows = plan["presets"]
    if not rows:
        return []
    own: PresetRow = {
        "preset": "this run",
        "steps": plan["steps"],
        "train_hours": plan["train_hours"],
        "time_ratio": 1.0,
        "cost_usd": _training_usd(plan),
        "memory_gb": plan["memory_gb"],
    }
    return [
        {
            "name": shown_value(row["preset"]),
            "steps": units.count(row["steps"]),
            "hours": time(row["train_hours"]),
            "cost": compared_dollars(row["cost_usd"]),
            "memory": size_in_gb(row["memory_gb"]),
            "ratio": _ratio(row["time_ratio"]),
        }
        for row in [own, *rows]
    ]


def _training_usd(plan: Plan) -> float | None:
    device, hours = plan["device"], plan["train_hours"]
    price = device["price_per_gpu_hour"]
    return None if hours is None or price is None else hours * price * device["gpus"]


def _ratio(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return "the same" if abs(value - 1) < SAME_TIME else f"{units.significant(value)} x"
