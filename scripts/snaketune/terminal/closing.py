"""The last lines of a command: the verdict, the cost, the paths of the results, and the next command."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snaketune.core.canonical import read_json
from snaketune.plan.summary import dollars, duration
from snaketune.report import units
from snaketune.report.run.evaluation_table import METRICS
from snaketune.terminal.stage_lines import columns

# With more runs than this, each gets a single line.
RUNS_IN_FULL = 2
_EVALUATION = "evaluation."


def end_of_runs(folders: Mapping[str, Path], ask: str, compare: str) -> list[str]:
    """Return the lines on the finished runs: five per run for one or two, one per run for more.

    Args:
        folders: the folder of each run, as shown to the user.
        ask: the command to talk to a model; may be empty.
        compare: the command to compare runs; empty if their comparison was made and is shown already.
    """
    found = {name: page_facts(folder) for name, folder in folders.items()}
    there = {name: facts for name, facts in found.items() if facts}
    if len(there) <= RUNS_IN_FULL:
        lines = []
        for name, facts in there.items():
            lines += [columns(name, "") if len(there) > 1 else "", *five_lines(facts, folders[name], ask)]
        return lines
    lowest = lowest_loss(there)
    listed = []
    for name, facts in there.items():
        mark = ", the lowest held-out loss" if name == lowest else ""
        listed.append(columns(name, f"{_text(facts, 'verdict.headline')}: {_change(facts)}{mark}"))
    reports = columns("reports", ", ".join(f"{folders[name]}/report.html" for name in there))
    return ["", *listed, reports, *([columns("together", compare)] if compare else [])]


def lowest_loss(runs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the run with the lowest held-out loss; None if the losses are for different data or tokenizers.

    Whether its advantage is significant is for `compare` to say, from paired intervals.
    """
    losses = {name: facts.get(f"{_EVALUATION}tuned.loss") for name, facts in runs.items()}
    measured = {(facts.get("digests.data"), facts.get("digests.tokenizer")) for facts in runs.values()}
    found = {name: loss for name, loss in losses.items() if isinstance(loss, int | float)}
    return min(found, key=lambda name: found[name]) if len(measured) == 1 and len(found) == len(runs) > 1 else None


def page_facts(folder: Path) -> dict[str, Any]:
    """Return the values of facts.json by name; empty if the file is missing or unreadable."""
    try:
        return {str(row["name"]): row["value"] for row in read_json(folder / "facts.json")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def five_lines(facts: Mapping[str, Any], folder: Path, ask: str) -> list[str]:
    """Return five lines: verdict, change with its interval, time and cost, path of the model and of the report."""
    ask = "" if f"{_EVALUATION}tuned.reward_margin" in facts else ask  # a reward model answers nothing
    kind = "merged" if (folder / "merged").is_dir() else "adapter"
    place = f"{folder}/{kind}{'' if kind == 'merged' else ' (an adapter, not merged)'}"
    return [
        columns("verdict", _text(facts, "verdict.headline")),
        columns("change", _change(facts)),
        columns("cost", _time_and_cost(facts)),
        columns("model", f"{place}, to talk to it: {ask}" if ask else place),
        columns("report", f"{folder}/report.html"),
    ]


def _text(facts: Mapping[str, Any], name: str) -> str:
    return str(facts.get(name) or "unknown")


def _change(facts: Mapping[str, Any]) -> str:
    tuned = {name: value for name, value in _model(facts, "tuned").items() if isinstance(value, int | float)}
    right = "exact_match" if "exact_match" in tuned else None
    shown = dict.fromkeys(("loss", right) if "preference_accuracy" not in tuned else ("preference_accuracy",))
    parts = [_moved(facts, key) for key in shown if key and key in tuned]
    return "; ".join(parts) or "not measured"


def _model(facts: Mapping[str, Any], model: str) -> dict[str, Any]:
    start = f"{_EVALUATION}{model}."
    return {name.removeprefix(start): value for name, value in facts.items() if name.startswith(start)}


def _moved(facts: Mapping[str, Any], key: str) -> str:
    metric, base, tuned = METRICS[key], _model(facts, "base").get(key), _model(facts, "tuned")[key]
    low, high = (facts.get(f"{_EVALUATION}tuned_minus_base.{key}.{name}") for name in ("low", "high"))
    write = metric.write_difference
    within = "" if low is None or high is None else f" (95% interval of the difference {write(low)} to {write(high)})"
    before = "" if base is None else f"{metric.write(base)} → "
    return f"{metric.label.lower()} {before}{metric.write(tuned)}{within}"


def _time_and_cost(facts: Mapping[str, Any]) -> str:
    hours, cost = facts.get("measured.hours"), facts.get("measured.cost")
    price = dollars(cost) if cost is not None else "cost unknown (plan.price_per_gpu_hour is not set)"
    steps = units.count(facts.get("training.steps"), "step")
    return f"{duration(hours)} for {steps}, {price}"


def end_of_target(target: str, files: Sequence[str]) -> list[str]:
    """Return a line for each file that a target made."""
    return [columns(target, path) for path in files if Path(path).exists()]
