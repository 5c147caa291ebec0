"""Single and combined effects: what each factor saves of an epoch, what all save together, and why these differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from statistics import median
from typing import Any

from snaketune.ablate import factors
from snaketune.ablate.effects import Epoch, MeasuredCase, case_facts, effect, part_of_epoch, spread

NEAR = 0.05
"""Relative difference of product and measured whole below which they are called equal."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The inputs of the combined effect.

    Attributes:
        slow, fast: both ends.
        epoch: the parts of an epoch besides training.
        rates: measured throughput of disks and of tokenising, as facts.
        shown: names of the factors that were measured.
        predicted: their combined speed-up by the token arithmetic; None if unknown.
        removing_padding: factors by which right-sizing and packing reduce positions, alone and together.
        price_per_hour: US dollars; None is unknown.
    """

    slow: MeasuredCase
    fast: MeasuredCase
    epoch: Epoch
    rates: dict[str, Any]
    shown: tuple[str, ...]
    predicted: float | None
    removing_padding: Mapping[str, float]
    price_per_hour: float | None

    @classmethod
    def of(
        cls,
        slow: MeasuredCase,
        fast: MeasuredCase,
        starts: Sequence[dict[str, Any]],
        disks: Sequence[dict[str, Any]],
        source_bytes: int,
        tokens: int,
        step_tokens: float,
        hours_between_interruptions: float,
        price_per_hour: float | None,
        shown: tuple[str, ...],
        predicted: float | None,
        removing_padding: Mapping[str, float],
    ) -> "Parts":
        """Return the parts from the measured cases."""
        tokenising, opening, start_facts = _starting(starts, tokens)
        reading, disk_facts = _reading(disks, source_bytes)
        epoch = Epoch(
            tokens=tokens,
            steps=max(1, round(tokens / step_tokens)),
            reading=reading,
            tokenising=(tokenising, opening),
            hours_between_interruptions=hours_between_interruptions,
            save_steps=factors.GUIDES_SAVE_STEPS,
        )
        rates = {"tokenising": start_facts, "reading": disk_facts}
        return cls(slow, fast, epoch, rates, shown, predicted, removing_padding, price_per_hour)

    @property
    def tokenising_failed(self) -> str:
        """Return why tokenising could not be measured; an empty string if it could."""
        found: str = self.rates["tokenising"].get("failed", "")
        return found

    def seconds(self, case: MeasuredCase, on: bool, but: str = "") -> float:
        """Return the seconds of an epoch from its start with the factors outside training all on or all off.

        Args:
            case: how it trains.
            on: whether they are on; those that are not shown are always on.
            but: the one factor with the opposite state.
        """
        staged, tokenised, seldom = (
            on != (name == but) or name not in self.shown
            for name in (factors.STAGING.name, factors.PRETOKENISING.name, factors.SAVE_INTERVAL.name)
        )
        return self.epoch.seconds(case, staged, tokenised, seldom)


def _starting(starts: Sequence[dict[str, Any]], tokens: int) -> tuple[float, float, dict[str, Any]]:
    """Return seconds to tokenise an epoch at its start and to open what is tokenised, and the facts."""
    values = [start["value"] for start in starts if "value" in start]
    if not values:
        return 0.0, 0.0, {"failed": starts[0]["failed"] if starts else ""}
    rates = [value["tokens_per_second"] for value in values]
    began = median(value["start_seconds"] for value in values)
    opening = median(value["open_seconds"] for value in values)
    facts = {"tokens_per_second": median(rates), "spread": spread(rates), "start_seconds": began}
    return began + tokens / median(rates), opening, facts | {"open_seconds": opening}


def _reading(disks: Sequence[dict[str, Any]], size: int) -> tuple[tuple[float, float], dict[str, Any]]:
    values = [disk["value"] for disk in disks if "value" in disk]
    if not values:
        return (0.0, 0.0), {}
    names = ("source_bytes_per_second", "copy_bytes_per_second")
    rates = {name: [value[name] for value in values] for name in names}
    facts: dict[str, Any] = {name: median(rates[name]) for name in names}
    facts |= {f"{name}_spread": spread(rates[name]) for name in names}
    return (size / facts[names[0]], size / facts[names[1]]), facts


OUTSIDE = (factors.STAGING, factors.PRETOKENISING, factors.SAVE_INTERVAL)
"""Factors outside training itself."""


def outside_rows(parts: Parts) -> list[dict[str, Any]]:
    """Return the effects of the factors outside training, from both ends, on one epoch from its start."""
    found = []
    for factor in OUTSIDE:
        if factor.name not in parts.shown:
            continue
        for where, case, on in ((factors.BASELINE, parts.slow, False), (factors.FAST, parts.fast, True)):
            row = {"factor": factor.name, "where": where, **outside_words(factor, parts, case)}
            failed = case.failed or (parts.tokenising_failed if factor == factors.PRETOKENISING else "")
            found.append(row | ({"failed": failed} if failed else _outside(parts, case, on, factor.name)))
    return found


def _outside(parts: Parts, case: MeasuredCase, on: bool, name: str) -> dict[str, Any]:
    # From each end one factor is switched: its effect on a slow epoch and on a fast one are different numbers, and both
    # are true.
    here, other = parts.seconds(case, on), parts.seconds(case, on, but=name)
    slow, fast = (other, here) if on else (here, other)
    return part_of_epoch(slow, slow - fast, parts.price_per_hour)


def outside_words(factor: factors.Factor, parts: Parts, case: MeasuredCase) -> dict[str, str]:
    """Describe the off and on states of a factor outside training."""
    if factor == factors.PRETOKENISING:
        return {"off_words": "tokenised at the start", "on_words": "memory-mapped"}
    if factor == factors.STAGING:
        return {"off_words": "read from the sources' disk", "on_words": "read from scratch"}
    counts = (1, 1) if case.failed else (parts.epoch.saves(case, False), parts.epoch.saves(case, True))
    off, on = (f"{count} checkpoint{'' if count == 1 else 's'} an epoch" for count in counts)
    return {"off_words": f"every {parts.epoch.save_steps} steps: {off}", "on_words": f"cheapest interval: {on}"}


def combined(parts: Parts, effects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the measured effect of all factors together, and the product of the single ones.

    Args:
        parts: both ends and the epoch around them.
        effects: of the single factors, as written to ablate.json.
    """
    if parts.slow.failed or parts.fast.failed:
        return {"failed": parts.slow.failed or parts.fast.failed}
    slow, fast = parts.seconds(parts.slow, False), parts.seconds(parts.fast, True)
    training = effect(parts.slow, parts.fast, parts.epoch, parts.price_per_hour)
    alone = [_part_of(slow, row) for row in effects if row["where"] == factors.BASELINE and "failed" not in row]
    product = prod(alone)
    whole = part_of_epoch(slow, slow - fast, parts.price_per_hour)
    kept = ("speed_up_low", "speed_up_high", "verdict", "loss_change", "loss_change_low", "loss_change_high")
    return {
        **whole,
        "seconds_slow": slow,
        "seconds_fast": fast,
        "training_speed_up": training["speed_up"],
        **{name: training[name] for name in kept},
        "predicted_speed_up": parts.predicted,
        "product_of_parts": product,
        "sentence": why_not_product(whole["speed_up"], product, parts.removing_padding),
    }


def _part_of(slow: float, row: Mapping[str, Any]) -> float:
    """Return the speed-up that a factor alone gives an epoch of ``slow`` seconds."""
    found: float = slow / (slow - row["seconds_saved"])
    return found


def why_not_product(measured: float, product: float, removing: Mapping[str, float]) -> str:
    """Return why the whole is not the product of its parts, in one sentence.

    Args:
        measured: speed-up of everything together.
        product: of the single speed-ups.
        removing: factors by which right-sizing and packing reduce positions, alone and ``together``; may be empty.
    """
    both = f"measured together, they give {measured:.2f}"
    if abs(product / measured - 1) < NEAR:
        return f"The product of the parts is {product:.2f}; {both}: within {NEAR:.0%} they are independent."
    if product < measured:
        return (
            f"The product of the parts is {product:.2f}; {both}: some reinforce each other, because what one"
            " leaves is a larger share of the rest for the next."
        )
    if removing and removing["packing"] * removing["right_sizing"] > removing["together"] * (1 + NEAR):
        return (
            f"The product of the parts is {product:.2f}; {both}, because packing ({removing['packing']:.2f} by the"
            f" arithmetic) and right-sizing ({removing['right_sizing']:.2f}) remove the same padding, which can only be"
            f" removed once ({removing['together']:.2f} together)."
        )
    return (
        f"The product of the parts is {product:.2f}; {both}, because they overlap: time saved by one cannot be saved"
        " again by another."
    )


def ablation_facts(
    parts: Parts,
    effects: list[dict[str, Any]],
    reasons: list[dict[str, str]],
    tokens_per_case: int,
    rounds: int,
) -> dict[str, Any]:
    """Return the content of ablate.json except the descriptions of run and machine."""
    order = {name: place for place, name in enumerate(factors.FACTOR_NAMES)}
    rows = sorted([*effects, *outside_rows(parts)], key=lambda row: order[row["factor"]])
    ends = {"slow": parts.slow, "fast": parts.fast}
    return {
        "titles": {factor.name: factor.title for factor in factors.FACTORS},
        "tokens_per_case": tokens_per_case,
        "rounds": rounds,
        "epoch": {"tokens": parts.epoch.tokens, "steps": parts.epoch.steps},
        "price_per_hour": parts.price_per_hour,
        "rates": parts.rates,
        "ends": {name: {"failed": case.failed} if case.failed else case_facts(case) for name, case in ends.items()},
        "effects": rows,
        "combined": combined(parts, rows),
        "not_measured": reasons,
    }
