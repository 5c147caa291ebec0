"""The ablation as a whole: its cases, their rounds, and ablate.json from the measurements."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.ablate import factors
from snaketune.ablate.case import FEWEST_STEPS, TrainingCase, measure_reading, measure_tokenising, measure_training
from snaketune.ablate.case_settings import configured, loading, setting_in_words
from snaketune.ablate.effects import Epoch, MeasuredCase, effect, together
from snaketune.ablate.factors import AblationSituation, CaseSetting, Factor, FactorPair
from snaketune.ablate.layouts import DocumentSample, SampleLayout, lay_out, operations, predicted_speed_up
from snaketune.ablate.summing import Parts, ablation_facts
from snaketune.core.errors import TrainingError
from snaketune.plan.flops import ModelShape
from snaketune.settings.operational import Operational
from snaketune.settings.training_slices import TrainingSlice

ROUNDS, FEWEST_ROUNDS = 3, 2
LONG_ROUND_SECONDS = 150.0
"""If the first round takes longer, only one more follows, not two."""
CASE_SECONDS, MOST_STEPS_OF_A_CASE = 5.0, 40
"""Approximate duration of a case of the slow end, and its maximum number of steps."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The run to measure.

    Attributes:
        cfg: its ``train``, ``adapter`` and ``model`` sections.
        settings: operational settings of training.
        model: the prepared model.
        pad_id: padding token.
        sample: documents to train on.
        records: the training records as text.
        recipe: settings of their tokenisation.
        rows: the packed rows of the run.
        sources, copies: the raw files and their copies on a fast disk; both empty without copies.
        source_bytes: of all raw files.
        shape, trained, is_full: the model in numbers; ``shape`` is None where its operations cannot be counted.
        epoch_tokens, step_tokens: real tokens of an epoch and of an optimizer step of the run.
        price_per_hour: of the device, in US dollars; None is unknown.
    """

    cfg: TrainingSlice
    settings: Operational
    model: Path
    pad_id: int
    sample: DocumentSample
    records: str
    recipe: Mapping[str, Any]
    rows: str
    sources: list[str]
    copies: list[str]
    source_bytes: int
    shape: ModelShape | None
    trained: int
    is_full: bool
    epoch_tokens: int
    step_tokens: float
    price_per_hour: float | None


CaseResult = Callable[..., dict[str, Any]]


class Ablation:
    """Measures the factors of a run.

    Args:
        subject: the run.
        here: the facts that decide which factors can be shown.
        wanted: names of the factors to measure.
        folder: private folder, kept until the ablation is finished.
        result: runs a function in its own process and returns its result, see ``running.FreshProcesses``.
        say: prints progress.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        subject: Subject,
        here: AblationSituation,
        wanted: Sequence[str],
        folder: Path,
        result: CaseResult,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock, self._is_cpu = clock, here.is_cpu
        self._subject, self._folder, self._result, self._say = subject, folder, result, say
        self._obstacles = {factor: self._obstacle(factor, here) for factor in factors.FACTORS if factor.name in wanted}
        shown = tuple(factor for factor, reason in self._obstacles.items() if not reason)
        self._shown = shown
        self._slow, self._fast, self._pairs = factors.pairs_of(here, shown)
        self._names = self._name_cases()

    def _obstacle(self, factor: Factor, here: AblationSituation) -> str:
        if factor == factors.STAGING and not self._subject.sources:
            return "the built-in data are generated, not read from a disk"
        if factor == factors.STAGING and self._subject.copies == self._subject.sources:
            return "the sources are read where they are: paths.scratch names no other, faster disk"
        return factors.obstacle(factor, here)

    def _name_cases(self) -> dict[CaseSetting, str]:
        names = {self._slow: factors.BASELINE}
        # With no factor to show, both ends are one case.
        names.setdefault(self._fast, factors.FAST)
        for pair in self._pairs:
            for side, setting in (("off", pair.off), ("on", pair.on)):
                # Pairs share cases: a setting that occurs twice is measured once.
                names.setdefault(setting, f"{pair.where}-{pair.factor.name}-{side}")
        return names

    def run(self) -> dict[str, Any]:
        """Measure everything and return the content of ablate.json.

        Raises:
            TrainingError: if neither end can be trained here.
        """
        self._say(f"{len(self._names)} cases, each in its own process, in {ROUNDS} rounds.")
        tokens, rounds, began = self._tokens_per_case(), ROUNDS, self._clock()
        found: dict[CaseSetting, list[dict[str, Any]]] = {setting: [] for setting in self._names}
        starts: list[dict[str, Any]] = []
        disks: list[dict[str, Any] | None] = []
        while len(starts) < rounds:
            number = len(starts)
            # In reverse order in every other round, so that a machine that slows down or speeds up favours no case.
            for setting in list(self._names)[:: -1 if number % 2 else 1]:
                found[setting].append(self._train(setting, number, tokens))
            starts.append(self._tokenise(number))
            disks.append(self._read(number))
            if number == 0 and self._clock() - began > LONG_ROUND_SECONDS:
                rounds = FEWEST_ROUNDS
        measured = {setting: together(results) for setting, results in found.items()}
        self._require_an_end(measured)
        parts = self._parts(measured, starts, [each for each in disks if each])
        return ablation_facts(parts, self._effects(measured, parts.epoch), self._reasons(), round(tokens), rounds)

    def _case(self, setting: CaseSetting, number: int, tokens: float) -> TrainingCase:
        subject, layout = self._subject, self._layout(setting)
        # Another seed per round: the spread then covers the order of rows as well as the machine.
        seed = subject.cfg["train"]["seed"] + number
        cfg = configured(subject.cfg, setting, layout.tokens_per_row, subject.step_tokens, seed)
        settings = loading(subject.settings, setting)
        scratch = str(self._folder / "probe")
        return TrainingCase(str(subject.model), layout, cfg, settings, tokens, scratch, self._is_cpu)

    def _layout(self, setting: CaseSetting) -> SampleLayout:
        subject = self._subject
        rows = self._folder / "rows"
        return lay_out(subject.sample, setting.row_length, setting.packing, subject.pad_id, rows)

    def _tokens_per_case(self) -> float:
        """Return the real tokens that every case trains on: those of the slow end in some seconds, in whole steps."""
        steps = self._subject.step_tokens
        case = self._case(self._slow, 0, FEWEST_STEPS * steps)
        # Cases are sized by the slow end: with as many tokens, most others take less time.
        pilot = self._result("pilot", measure_training, case)
        # The slow configuration may not fit; the other cases can still be measured, with the fewest steps.
        if "failed" in pilot:
            return FEWEST_STEPS * steps
        rate = pilot["value"]["tokens_per_second"]
        found: float = max(FEWEST_STEPS * steps, min(CASE_SECONDS * rate, MOST_STEPS_OF_A_CASE * steps))
        return found

    def _train(self, setting: CaseSetting, number: int, tokens: float) -> dict[str, Any]:
        name = self._names[setting]
        result = self._result(f"{name}-{number}", measure_training, self._case(setting, number, tokens))
        said = result.get("failed") or f"{result['value']['tokens_per_second']:,.0f} real tokens/s"
        kept = ", kept from before" if result.get("kept") else ""
        self._say(f"Round {number + 1}, {name}: {said}{kept}")
        return result

    def _tokenise(self, number: int) -> dict[str, Any]:
        subject = self._subject
        return self._result(
            f"tokenising-{number}", measure_tokenising, subject.records, dict(subject.recipe), subject.rows
        )

    def _read(self, number: int) -> dict[str, Any] | None:
        if factors.STAGING not in self._shown:
            return None
        return self._result(f"reading-{number}", measure_reading, self._subject.sources, self._subject.copies)

    def _require_an_end(self, measured: Mapping[CaseSetting, MeasuredCase]) -> None:
        if measured[self._slow].failed and measured[self._fast].failed:
            raise TrainingError(f"nothing can be measured on this machine: {measured[self._fast].failed}")

    def _parts(
        self, measured: Mapping[CaseSetting, MeasuredCase], starts: list[dict[str, Any]], disks: list[dict[str, Any]]
    ) -> Parts:
        subject = self._subject
        return Parts.of(
            slow=measured[self._slow],
            fast=measured[self._fast],
            starts=starts,
            disks=disks,
            source_bytes=subject.source_bytes,
            tokens=subject.epoch_tokens,
            step_tokens=subject.step_tokens,
            hours_between_interruptions=subject.settings["hours_between_interruptions"],
            price_per_hour=subject.price_per_hour,
            shown=tuple(factor.name for factor in self._shown),
            predicted=self._predicted(measured, self._slow, self._fast),
            removing_padding=self._removing_padding(),
        )

    def _effects(self, measured: Mapping[CaseSetting, MeasuredCase], epoch: Epoch) -> list[dict[str, Any]]:
        return [
            {
                "factor": pair.factor.name,
                "where": pair.where,
                "off_words": setting_in_words(pair.factor, pair.off),
                "on_words": setting_in_words(pair.factor, pair.on),
                **effect(measured[pair.off], measured[pair.on], epoch, self._subject.price_per_hour),
                **self._arithmetic(measured, pair),
            }
            for pair in self._pairs
        ]

    def _arithmetic(self, measured: Mapping[CaseSetting, MeasuredCase], pair: FactorPair) -> dict[str, Any]:
        """Return the predicted speed-up of a pair whose layout or recomputation differs."""
        if pair.factor not in (factors.RIGHT_SIZING, factors.PACKING_FACTOR, factors.RECOMPUTATION):
            return {}
        return {
            "predicted_speed_up": self._predicted(measured, pair.off, pair.on),
            "places_per_token_off": self._layout(pair.off).places_per_token,
            "places_per_token_on": self._layout(pair.on).places_per_token,
        }

    def _predicted(
        self, measured: Mapping[CaseSetting, MeasuredCase], off: CaseSetting, on: CaseSetting
    ) -> float | None:
        """Return the speed-up by FLOPs, or by positions if the model's FLOPs cannot be counted."""
        if measured[off].failed or measured[on].failed:
            return None
        subject = self._subject
        if subject.shape is None:
            # Without FLOPs, computed positions are the next best measure of work: layers cost about the same for each.
            return self._layout(off).places_per_token / self._layout(on).places_per_token
        counted = [
            operations(subject.shape, self._layout(one), facts["engine"], subject.trained, subject.is_full)
            for one in (off, on)
            if (facts := measured[one].facts)
        ]
        return predicted_speed_up(*counted)

    def _removing_padding(self) -> dict[str, float]:
        """Return by which factors right-sizing and packing reduce positions; empty unless both are shown."""
        wanted = {factors.RIGHT_SIZING, factors.PACKING_FACTOR}
        if not wanted <= set(self._shown):
            return {}
        slow = self._layout(self._slow).places_per_token
        alone = {pair.factor.name: pair.on for pair in self._pairs if pair.where == factors.BASELINE}
        found = {factor.name: slow / self._layout(alone[factor.name]).places_per_token for factor in wanted}
        return {**found, "together": slow / self._layout(self._fast).places_per_token}

    def _reasons(self) -> list[dict[str, str]]:
        return [
            {"factor": factor.name, "title": factor.title, "reason": reason}
            for factor, reason in self._obstacles.items()
            if reason
        ]
