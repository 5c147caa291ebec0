"""The page of an ablation: the effect of each optimisation, alone and together; a pure function of ablate.json."""

from dataclasses import dataclass
from typing import Any

from snaketune.facts.ablation_facts import (
    AblationFacts,
    CaseFacts,
    FailedCase,
    FailedEffect,
    FailedWhole,
    LossChange,
    OutsideEffect,
    TrainingEffect,
    WholeEffect,
)
from snaketune.report import units
from snaketune.report.ablation.waterfall import waterfall
from snaketune.report.compare.comparison import compared_dollars, hours
from snaketune.report.filling import fill
from snaketune.report.text import excerpt, visible

WAYS = {
    "baseline": (
        "Switched on alone",
        "The guides' slow configuration with this one change, compared with the unchanged slow configuration.",
    ),
    "fast": (
        "Removed from the fast configuration",
        "The fast configuration without this setting, compared with the full one: its contribution when all the "
        "others are on.",
    ),
    "beside": (
        "Recommended by guides, but not part of the fast configuration",
        "Each compared with the unchanged fast configuration.",
    ),
}
BUSY = 0.05
"""Fraction of CPU wait above which the page notes that the machine was busy."""
DASH = "\u2013"
NOT_OUTSIDE = ("rate", "predicted", "loss", "memory")
VERDICT_WORDS = {"faster": "faster", "slower": "slower", "unclear": "no clear difference"}


@dataclass(frozen=True, slots=True)
class FactorRow:
    """A factor measured, as text. ``tone`` is better, worse or nothing."""

    title: str
    change: str
    rate: str
    rate_before: str
    spread: str
    speed_up: str
    range: str
    predicted: str
    reduction: str
    saved: str
    usd: str
    loss: str
    loss_change: str
    memory: str
    memory_before: str
    verdict: str
    tone: str
    failed: str


def render_ablation(facts: AblationFacts, name: str, id: str) -> str:
    """Return the ablation of the run ``name`` as one self-contained HTML page; equal facts give equal bytes.

    Args:
        facts: the content of ablate.json.
        name: of the run.
        id: of its folder.
    """
    return fill("ablate.html.j2", **ablation_sections(facts), name=excerpt(name, 100).text, run_id=id)


def ablation_sections(facts: AblationFacts) -> dict[str, Any]:
    """Return what the template shows; every number is text already."""
    whole = facts["combined"]
    return {
        "headline": ablation_headline(whole),
        "sentence": whole.get("sentence", whole.get("failed", "")),
        "tone": "few" if "failed" in whole else "better" if whole["speed_up"] > 1 else "worse",
        "figures": whole_and_product(facts),
        "chart": waterfall(facts),
        "tables": tables(facts),
        "not_measured": [(visible(row["title"]), excerpt(row["reason"], 400).text) for row in facts["not_measured"]],
        "ends": ends(facts),
        "how": how(facts),
        "busy": busy(facts),
        "notes": notes(facts),
    }


def ablation_headline(whole: FailedWhole | WholeEffect) -> str:
    """Return the total effect in a few words."""
    if "failed" in whole:
        return "The two configurations could not both be measured on this machine"
    slow, fast = hours(whole["seconds_slow"]), hours(whole["seconds_fast"])
    return f"All together {times(whole['speed_up'])}: an epoch in {fast} instead of {slow}"


def times(value: float | None) -> str:
    """Return a speed-up: ``2.41 x``."""
    return "unknown" if value is None else f"{units.significant(value)} x"


def whole_and_product(facts: AblationFacts) -> list[tuple[str, str, str]]:
    """Return the total effect and the product of its parts: label, value, note."""
    whole = facts["combined"]
    if "failed" in whole:
        return []
    low, high = whole["speed_up_low"], whole["speed_up_high"]
    between = f"training alone {times(whole['training_speed_up'])}, {times(low)} to {times(high)} in the rounds"
    return [
        ("Measured together", times(whole["speed_up"]), between),
        ("Product of the parts", times(whole["product_of_parts"]), "each measured alone"),
        ("Token arithmetic", times(whole["predicted_speed_up"]), "training, by its operations with padding"),
        ("Time reduction", units.percent(whole["time_reduction"]), "the speed-up, expressed as time saved"),
        ("Saved per epoch", signed_time(whole["seconds_saved"]), f"{signed_dollars(whole['usd_saved'])} at the price"),
        ("Held-out loss", change_of_loss(whole), "fast minus slow, after the same number of tokens"),
    ]


# Nats per token: differences of this size arise from the order of summation alone.
LOSS_ROUNDING = 1e-6


def change_of_loss(row: LossChange) -> str:
    """Return by how much the held-out loss changed, with the range over the rounds."""
    change, low, high = row["loss_change"], row["loss_change_low"], row["loss_change_high"]
    if change is None or low is None or high is None:
        return units.NOT_MEASURED
    if max(abs(low), abs(high)) < LOSS_ROUNDING:
        return "unchanged"
    return f"{units.signed(change, 2)} ({units.signed(low, 2)} to {units.signed(high, 2)})"


def signed_time(seconds: float) -> str:
    """Return seconds that are saved as a duration; lost ones have a minus sign."""
    return f"{units.MINUS if seconds < 0 else ''}{hours(abs(seconds))}"


def signed_dollars(value: float | None) -> str:
    """Return dollars that are saved; lost ones have a minus sign, and without a price they are unknown."""
    if value is None:
        return "unknown dollars"
    return f"{units.MINUS if value < 0 else ''}{compared_dollars(abs(value))}"


def tables(facts: AblationFacts) -> list[tuple[str, str, str, list[FactorRow]]]:
    """Return a table per way of measuring: name, title, what it means, rows."""
    found = []
    for where, (title, meaning) in WAYS.items():
        rows = [row_of(facts, row) for row in facts["effects"] if row["where"] == where]
        if rows:
            found.append((where, title, meaning, rows))
    return found


def row_of(facts: AblationFacts, row: FailedEffect | TrainingEffect | OutsideEffect) -> FactorRow:
    """Return an effect as text; a factor outside training has no rates, loss or memory of its own."""
    words = {
        **dict.fromkeys(FactorRow.__slots__, ""),
        "title": visible(facts["titles"].get(row["factor"], row["factor"])),
        "change": f"{row['off_words']} → {row['on_words']}",
    }
    if "failed" in row:
        return FactorRow(**{**words, "failed": excerpt(row["failed"], 300).text})
    words |= {
        "speed_up": times(row["speed_up"]),
        "reduction": units.percent(row["time_reduction"]),
        "saved": signed_time(row["seconds_saved"]),
        "usd": signed_dollars(row["usd_saved"]).removesuffix(" dollars"),
    }
    return FactorRow(**{**words, **(_of_training(row) if "off" in row else dict.fromkeys(NOT_OUTSIDE, DASH))})


def _of_training(row: TrainingEffect) -> dict[str, str]:
    """Return the texts of what only a training has."""
    off, on = row["off"], row["on"]
    return {
        "rate": _rate(on),
        "rate_before": f"instead of {_rate(off)}",
        "spread": f"spread {units.percent(max(off['spread'], on['spread']))}",
        "range": f"{times(row['speed_up_low'])} to {times(row['speed_up_high'])}",
        "predicted": times(row["predicted_speed_up"]) if "predicted_speed_up" in row else DASH,
        "loss": units.significant(on["held_out_loss"]),
        "loss_change": change_of_loss(row),
        "memory": _memory(on),
        "memory_before": f"instead of {_memory(off)}",
        "verdict": VERDICT_WORDS.get(row["verdict"], ""),
        "tone": {"faster": "better", "slower": "worse"}.get(row["verdict"], ""),
    }


def _rate(case: CaseFacts) -> str:
    return units.count(round(case["tokens_per_second"]))


def _memory(case: CaseFacts) -> str:
    return units.file_size(case["peak_memory_bytes"])


def ends(facts: AblationFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return both ends with what was measured of each."""
    names = {"slow": "The guides' slow configuration", "fast": "The fast configuration"}
    return [(names.get(name, visible(name)), end_rows(end)) for name, end in facts["ends"].items()]


def end_rows(end: FailedCase | CaseFacts) -> list[tuple[str, str]]:
    """Return what was measured of an end: label and value."""
    if "failed" in end:
        return [("Not measured", excerpt(end["failed"], 300).text)]
    return [
        ("Real tokens per second", f"{_rate(end)} ({', '.join(_whole(rate) for rate in end['rates'])})"),
        ("Micro-batch, accumulation", f"{end['rows']} x {end['accumulation']}"),
        ("Peak memory", _memory(end)),
        ("A checkpoint", hours(end["save_seconds"])),
        ("Held-out loss", units.significant(end["held_out_loss"])),
    ]


def _whole(value: float) -> str:
    return units.count(round(value))


def how(facts: AblationFacts) -> list[tuple[str, str]]:
    """Return how it was measured: label and value."""
    machine, epoch, rates = facts["machine"], facts["epoch"], facts["rates"]
    price = facts["price_per_hour"]
    rows = [
        ("Device", excerpt(machine["device"], 100).text),
        ("Rounds", units.count(facts["rounds"])),
        ("Real tokens per case", units.count(facts["tokens_per_case"])),
        ("One epoch", f"{units.count(epoch['tokens'], 'real token')}, {units.count(epoch['steps'], 'optimizer step')}"),
        ("Price of an hour", "unknown; give plan.price_per_gpu_hour" if price is None else compared_dollars(price)),
        *((f"Package {name}", version) for name, version in machine["versions"].items()),
    ]
    tokenising = rates["tokenising"]
    if "tokens_per_second" in tokenising:
        rows.append(("Tokenising, one process", f"{_whole(tokenising['tokens_per_second'])} tokens/s"))
    reading = rates["reading"]
    disks = {
        "Sources' disk": reading.get("source_bytes_per_second"),
        "Scratch disk": reading.get("copy_bytes_per_second"),
    }
    rows += [(label, f"{units.file_size(round(rate))}/s") for label, rate in disks.items() if rate is not None]
    return rows


def measured_cases(facts: AblationFacts) -> list[CaseFacts]:
    """Return every case that was measured, some more than once."""
    found = [row[side] for row in facts["effects"] if "off" in row for side in ("off", "on")]
    return found + [end for end in facts["ends"].values() if "failed" not in end]


def busy(facts: AblationFacts) -> str:
    """Return a sentence if other programs used the processor, else an empty text."""
    most = max((case["waited_share"] for case in measured_cases(facts)), default=0.0)
    if most < BUSY:
        return ""
    return (
        f"Other programs used the processor up to {units.percent(most)} of the time. On a CPU the throughput refers to "
        "the remaining time; measure again on an idle machine to be sure."
    )


def notes(facts: AblationFacts) -> list[str]:
    """Return notes on single factors."""
    found = []
    for row in facts["effects"]:
        if row["factor"] == "compile" and "on" in row:
            first, saved = row["on"]["first_warm_up_seconds"], row["off"]["warm_up_seconds"]
            found.append(
                f"Compiling took about {hours(max(first - saved, 0.0))} the first time, which the speed-up leaves out; "
                "later runs on this machine reuse the compiled layers."
            )
            break
    if any(row["factor"] == "pretokenising" for row in facts["effects"]):
        found.append(
            "Tokenising at the start is measured with this pipeline's own tokenising, in one process; scripts that call"
            " a tokenizer record by record take longer."
        )
    return found
