"""The split plan: each record is trained on, held out or dropped.

Records are held out by prompt first. Then training records that contain evaluation texts, or are too similar to a
held-out record, are dropped. Dropping from the training side keeps the held-out set stable when these rules change.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from snaketune.core.atomic import private_folder, sibling, writing
from snaketune.core.errors import DataError
from snaketune.core.manifest import write_manifest
from snaketune.data.similarity.decontamination import (
    Contamination,
    build_index,
    find_contamination,
)
from snaketune.data.similarity.evaluation_texts import EvaluationText, read_evaluation_texts
from snaketune.data.similarity.leak_check import check_sides
from snaketune.data.similarity.leaks import Leaks, Side, find_leaks
from snaketune.data.similarity.removal import EXCERPT_CHARACTERS, LineIndex, record_excerpt
from snaketune.data.split.sampling import repetitions
from snaketune.data.split.splitting import plan_split, write_splits
from snaketune.data.tokens.left_out_records import percentage
from snaketune.settings.data_slices import Mixing, SplitSlice, StageSettings
from snaketune.storage.disks import Disks, temporary_place

TO_TRAINING, TO_EVALUATION, DROPPED = 0, 1, -1
NOTABLE_FRACTION = 0.1


@dataclass(frozen=True, slots=True)
class SplitPolicy:
    """The ``split`` section of the configuration."""

    test_size: float
    seed: int
    stratify: bool = False
    max_similarity: float | None = None
    max_alike: int | None = None
    decontaminate: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SidePlan:
    """The side of each record.

    Attributes:
        side: int8 [records]: 0 training, 1 held out, -1 dropped.
        leaks: training records similar to held-out ones; None if not searched for.
        contamination: training records with evaluation texts; None if not searched for.
    """

    side: np.ndarray
    leaks: Leaks | None
    contamination: Contamination | None

    @property
    def dropped_contaminated(self) -> np.ndarray:
        """The records dropped because they contain an evaluation text."""
        return np.zeros(0, np.int64) if self.contamination is None else self.contamination.record

    @property
    def dropped_similar(self) -> np.ndarray:
        """The records dropped only because they are similar to a held-out record."""
        return (
            np.zeros(0, np.int64) if self.leaks is None else np.setdiff1d(self.leaks.train, self.dropped_contaminated)
        )

    @property
    def template_family(self) -> np.ndarray:
        """The held-out records whose similar training records are too many to exclude."""
        return np.zeros(0, np.int64) if self.leaks is None else self.leaks.template_family

    @property
    def must_differ(self) -> np.ndarray:
        """Held-out records that no training record may be similar to, bool [held-out records]."""
        return ~np.isin(np.flatnonzero(self.side == TO_EVALUATION), self.template_family)

    def times(self, index: LineIndex, mixing: Mixing | None) -> np.ndarray | None:
        """Return how often each record is repeated in an epoch, or None without weights: every record once.

        Args:
            index: the origins of the records.
            mixing: the ``weights`` of the sources and the ``seed``, if any source has a weight.

        Raises:
            DataError: if no record is left to train on.
        """
        if not mixing:
            return None
        times = repetitions(*index.source_and_line(np.arange(len(index.places))), mixing["weights"], mixing["seed"])
        if not times[self.side == TO_TRAINING].any():
            raise DataError(f"data.sources: weights of {mixing['weights']} leave no record to train on: raise them.")
        return times

    def facts(self, policy: SplitPolicy, sources: np.ndarray, times: np.ndarray | None = None) -> dict[str, Any]:
        """Return the counts for the manifest; null for searches that were not made.

        Args:
            policy: the policy of the plan.
            sources: the source of each record.
            times: the result of :meth:`times`.
        """
        sides = {"train": self.side == TO_TRAINING, "eval": self.side == TO_EVALUATION}
        often = np.where(sides["train"], 1 if times is None else times, 1)
        by_source = {
            name: np.bincount(sources[chosen], often[chosen]).astype(np.int64) for name, chosen in sides.items()
        }
        weighted = {} if times is None else _weighted(times[sides["train"]])
        return {
            **{name: int(often[chosen].sum()) for name, chosen in sides.items()},
            **weighted,
            "dropped_similar": len(self.dropped_similar),
            "dropped_contaminated": len(self.dropped_contaminated),
            "eval_alike": len(self.template_family),
            "leaked_before": None if self.leaks is None else self.leaks.counts(policy.max_similarity or 1),
            "contamination": None if self.contamination is None else self.contamination.counts(),
            "by_source": {name: counts.tolist() for name, counts in by_source.items()},
        }

    def notes(self, policy: SplitPolicy) -> list[str]:
        """Return sentences for the user about records that the split leaves out."""
        found, records, held_out = [], len(self.side), len(self.must_differ)
        if count := len(self.dropped_contaminated):
            found.append(
                f"{count:,} of {records:,} records ({percentage(count, records)}) contain text of the files in "
                "split.decontaminate and are excluded from training; leaks.jsonl lists each with that text."
            )
        if count := len(self.dropped_similar):
            design = (
                "; if records are similar by design, lower split.max_alike or set split.max_similarity to null"
                if count > NOTABLE_FRACTION * records
                else " (split.max_similarity)"
            )
            found.append(
                f"{count:,} of {records:,} records ({percentage(count, records)}) "
                f"are too similar to held-out ones to train"
                f" on{design}; leaks.jsonl lists them."
            )
        if len(self.template_family) > NOTABLE_FRACTION * held_out:
            found.append(
                f"more than {policy.max_alike} training records each are similar to {len(self.template_family):,} of"
                f" {held_out:,} held-out ones, as if made from a template: these training records are kept "
                "(split.max_alike: null drops them), and scores say little about other texts."
            )
        return found


def plan_sides(
    path: Path,
    policy: SplitPolicy,
    evaluations: Sequence[dict[str, str]],
    index: LineIndex,
    folder: Path,
    threads: int = 1,
) -> SidePlan:
    """Assign each record to a side.

    Args:
        path: canonical records.
        policy: how to split.
        evaluations: ``{path, digest}`` of files with texts that must not be trained on.
        index: where the lines of the records start.
        folder: an empty folder for temporary files.
        threads: processes to use; the plan does not depend on their number.

    Raises:
        DataError: if nothing is left to train on, or a file of evaluation texts cannot be used.
    """
    held_out = plan_split(path, policy.test_size, policy.seed, index if policy.stratify else None, threads)
    side = held_out.astype(np.int8)
    contamination = leaks = None
    if evaluations:
        build_index(read_evaluation_texts(evaluations), folder)
        contamination = find_contamination(path, ~held_out, folder, threads)
        # Only training records are dropped: the held-out set must not depend on what happens to resemble it.
        side[contamination.record] = DROPPED
    if policy.max_similarity is not None:
        # All training candidates are searched, also those already dropped, so that both counts are independent of the
        # order.
        sides, limit = (Side(path, ~held_out), Side(path, held_out)), policy.max_similarity
        leaks = find_leaks(*sides, limit, folder, threads, policy.max_alike)
        side[leaks.train] = DROPPED
    if not (side == TO_TRAINING).any():
        raise DataError(
            f"split: of {len(side)} records {held_out.sum()} are held out and all others are too similar to these or "
            "contain evaluation text: raise split.max_similarity or set it to null, or check split.decontaminate."
        )
    return SidePlan(side, leaks, contamination)


def _weighted(times: np.ndarray) -> dict[str, int]:
    """Return the number of repetitions added by weights and the number of records left out by them."""
    return {"weight_added": int(np.maximum(times - 1, 0).sum()), "weight_left_out": int((times == 0).sum())}


def write_leaks(
    plan: SidePlan, path: Path, evaluations: Sequence[dict[str, str]], index: LineIndex, file: IO[bytes]
) -> None:
    """List each dropped record with the text that it leaks, as JSON lines in the order of the records.

    Args:
        plan: the plan.
        path: its records.
        evaluations: as given to :func:`plan_sides`.
        index: where the lines of the records start.
        file: receives the list.
    """
    found, leaks, none = plan.contamination, plan.leaks, np.zeros(0, np.int64)
    contaminated, similar = none if found is None else found.record, none if leaks is None else leaks.train
    texts = _named(evaluations, none if found is None else found.text)
    with open(path, "rb") as lines:
        # One entry at a time: very many records may be dropped.
        for record in map(int, np.union1d(contaminated, similar)):
            if found is not None and (place := _place_in(contaminated, record)) is not None:
                rules = (found.long_run[place], found.half[place], found.whole[place])
                reason = _contaminated(texts[int(found.text[place])], float(found.share[place]), rules)
            elif leaks is not None and (place := _place_in(similar, record)) is not None:
                other, similarity = int(leaks.evaluation[place]), float(leaks.similarity[place])
                told = {"similarity": round(similarity, 6), "eval": index.place(other)}
                reason = {"reason": "similar", **told, "eval_text": record_excerpt(index.line(lines, other))}
            text = record_excerpt(index.line(lines, record))
            entry = {"removed": index.place(record), **reason, "text": text}
            file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))


def _place_in(records: np.ndarray, record: int) -> int | None:
    """Return where a record is in an ascending array, or None if it is not."""
    place = int(np.searchsorted(records, record))
    return place if place < len(records) and records[place] == record else None


def _named(evaluations: Sequence[dict[str, str]], wanted: np.ndarray) -> dict[int, EvaluationText]:
    chosen = set(wanted.tolist())
    return {number: text for number, text in enumerate(read_evaluation_texts(evaluations)) if number in chosen}


def _contaminated(text: EvaluationText, share: float, rules: Sequence[bool]) -> dict[str, Any]:
    names = ("any_13_gram", "half_of_8_grams", "whole_short_text")
    return {
        "reason": "contaminated",
        "rules": [name for name, holds in zip(names, rules, strict=True) if holds],
        "share": round(share, 6),
        "file": text.path,
        "line": text.line,
        "evaluation_text": " ".join(text.text[:EXCERPT_CHARACTERS].split()),
    }


@dataclass(frozen=True, slots=True)
class SplitJob:
    """The split: files and settings, by the names of the flags that ``split_records.py`` documents."""

    spec: str
    code: str
    cfg: SplitSlice
    settings: StageSettings
    records: Path
    train: Path
    eval: Path
    leaks: Path
    manifest: Path


def split(job: SplitJob) -> None:
    """Plan the sides, copy every line to its side, and check both written files.

    Raises:
        DataError: if the records are damaged, or nothing is left to train on.
    """
    policy, evaluations = SplitPolicy(**job.cfg["split"]), job.cfg.get("evaluations", [])
    settings, records, threads = job.settings, job.records, job.settings["threads"]
    disks, name = Disks.of(os.environ, settings["work"]), f"split_records-{job.train.parent.name}"
    place = temporary_place(settings["scratch"], settings["work"], name, disks, records.stat().st_size)
    index = LineIndex.read(records, threads)
    with private_folder(sibling(place)) as folder:
        plan = plan_sides(records, policy, evaluations, index, folder, threads)
    times = plan.times(index, job.cfg.get("mixing"))
    with writing(job.train) as train, writing(job.eval) as held_out, writing(job.leaks) as leaks:
        write_splits(plan.side, records, train, held_out, times)
        write_leaks(plan, records, evaluations, index, leaks)
        # The check reads the files back, before either is published under its final name.
        train.flush()
        held_out.flush()
        with private_folder(sibling(place)) as folder:
            sides = Path(train.name), Side(Path(held_out.name), plan.must_differ)
            left = check_sides(*sides, policy.max_similarity is not None, folder, threads)
    facts = {**plan.facts(policy, index.sources, times), **left}
    for note in plan.notes(policy):
        print(f"Note: {note}", file=sys.stderr)
    write_manifest(job.manifest, "split_records", [job.train, job.eval, job.leaks], facts)
