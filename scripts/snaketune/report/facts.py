"""The facts of one run, read from the files its stages left, with bounded memory."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from snaketune.core.errors import DataError
from snaketune.core.outputs import changed_outputs
from snaketune.facts.data import (
    DEDUPLICATION,
    PACKING,
    READING,
    RIGHTSIZE,
    SPLIT,
    TOKENS,
    Deduplication,
    Packing,
    Reading,
    Rightsize,
    Split,
    Tokens,
)
from snaketune.facts.evaluation import EVALUATION, Evaluation
from snaketune.facts.fact_files import FactFile, missing
from snaketune.facts.measured import EVALUATION_INFO, NOTHING_MEASURED, RUN_INFO, EvaluationInfo, RunInfo
from snaketune.facts.merging import MERGED, Merged
from snaketune.facts.plan import PLAN, Plan
from snaketune.facts.run import HISTORY, RUN, History, RunIdentity
from snaketune.facts.shapes import shaped
from snaketune.facts.training import TRAINED, Trained
from snaketune.report.charts.curves import Curve, Progress, gather
from snaketune.report.run.answers import Answers, collect, collect_by_file
from snaketune.report.run.too_long import TooLong, find_too_long
from snaketune.report.text import Excerpt, excerpt

__all__ = ["Curve", "Facts", "Json", "load_facts", "read_lines"]

Json = dict[str, Any]
FACT_FILES: dict[str, FactFile[Any]] = {
    "run": RUN,
    "reading": READING,
    "dedupe": DEDUPLICATION,
    "split": SPLIT,
    "tokens": TOKENS,
    "pack": PACKING,
    "rightsize": RIGHTSIZE,
    "adapter": TRAINED,
    "evaluation": EVALUATION,
    "merged": MERGED,
    "plan": PLAN,
    "info": RUN_INFO,
    "timing": EVALUATION_INFO,
    "history": HISTORY,
}
OPTIONAL = ("merged", "plan", "info", "timing", "history")
QUARANTINE_SHOWN = 10
QUARANTINE_PER_REASON = 3
DUPLICATES_SHOWN = 5
LEAKS_PER_REASON = 3
LINE_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class QuarantinedLine:
    """A line of a source that could not be read as a record."""

    place: str
    reason: str
    detail: Excerpt
    raw: Excerpt


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """A removed record and the earlier one that stayed, by source number and line."""

    removed: tuple[int, int]
    kept: tuple[int, int]
    kind: str
    similarity: float
    text: Excerpt
    kept_text: Excerpt


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A record that tokenising left out, by source number and line."""

    split: str
    place: tuple[int, int]
    reason: str
    detail: Excerpt


@dataclass(frozen=True, slots=True)
class LeakPair:
    """A record that was kept from training, and what it would have given away: a held-out record or a file's text."""

    reason: str
    removed: tuple[int, int]
    where: str
    similarity: float
    text: Excerpt
    other: Excerpt


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the report may say: the fact files as read; ``merged`` is None without a merge."""

    run: RunIdentity
    reading: Reading
    dedupe: Deduplication
    split: Split
    tokens: Tokens
    pack: Packing
    rightsize: Rightsize
    adapter: Trained
    merged: Merged | None
    evaluation: Evaluation
    curves: Mapping[str, Curve]
    quarantine: tuple[QuarantinedLine, ...]
    duplicates: tuple[DuplicatePair, ...]
    answers: Answers
    plan: Plan | None = None
    """plan.json; it and ``info`` are the only facts that depend on a machine, on prices and on the clock."""
    info: RunInfo | None = None
    """run_info.json."""
    timing: EvaluationInfo | None = None
    """evaluation_info.json, measured as well."""
    file_answers: Mapping[str, Answers] = field(default_factory=dict)
    """Answers to the questions of external files, by the name of the file."""
    leaks: tuple[LeakPair, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    too_long: tuple[TooLong, ...] = ()
    progress: Mapping[int, Progress] = field(default_factory=dict)
    """How far each logged step is; its seconds are measured."""
    rates: Mapping[str, Curve] = field(default_factory=dict)
    """Curves of what was measured on the machine."""
    history: History | None = None
    """history.json: which stages ran when, and the run before this one; measured as well."""
    changed: tuple[str, ...] = ()
    """Names of fact files that are not what their jobs wrote."""

    @property
    def measured(self) -> RunInfo:
        """run_info.json; nothing is known in it where there is none."""
        return self.info or NOTHING_MEASURED


def load_facts(paths: Mapping[str, str | None]) -> Facts:
    """Read the fact files of a run.

    Args:
        paths: path by name, named like the arguments of ``render_report.py``; ``merged``, ``plan``, ``info``,
            ``timing``, ``leaks``, ``dropped``, ``records`` and ``history`` may be None.

    Raises:
        DataError: if a file is missing, damaged or of a newer format.
    """
    given = {name: Path(path) for name, path in paths.items() if path}
    metrics = gather(read_lines(given["metrics"]))
    found: dict[str, Any] = {
        name: None if name in OPTIONAL and name not in given else kind.read(given[name])
        for name, kind in FACT_FILES.items()
    }
    return Facts(
        **found,
        leaks=read_leaks(given["leaks"]) if "leaks" in given else (),
        left_out=read_left_out(given["dropped"]) if "dropped" in given else (),
        too_long=_too_long(given, found["rightsize"]) if "records" in given else (),
        curves=metrics.curves,
        rates=metrics.rates,
        progress=metrics.progress,
        changed=_changed(given.values()),
        quarantine=read_quarantine(given["quarantine"]),
        duplicates=read_duplicates(given["duplicates"]),
        answers=collect(line for line in read_lines(given["generations"]) if "file" not in line),
        file_answers=collect_by_file(line for line in read_lines(given["generations"]) if "file" in line),
    )


def nothing_but(
    run: str, id: str, curves: Mapping[str, Curve], rates: Mapping[str, Curve], progress: Mapping[int, Progress]
) -> Facts:
    """Return the facts of a run of which only its curves are there."""
    documents = {name: {"run": run, "id": id} if name == "run" else {} for name in FACT_FILES if name not in OPTIONAL}
    empty: dict[str, Any] = {name: shaped(value, FACT_FILES[name].kind) for name, value in documents.items()}
    rest: dict[str, Any] = {"merged": None, "quarantine": (), "duplicates": (), "answers": Answers()}
    return Facts(**empty, **rest, curves=curves, rates=rates, progress=progress)


def _changed(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the names of the files that somebody edited or damaged since; every one is read in full."""
    given = set(paths)
    folders = dict.fromkeys(path.parent for path in paths)
    outputs = (output for folder in folders for output in changed_outputs(folder, verify=True))
    return tuple(sorted(output.path.name for output in outputs if output.path in given))


def _too_long(given: Mapping[str, Path], rightsize: Rightsize) -> tuple[TooLong, ...]:
    """Return examples of what is longer than the maximum length; nothing is opened when nothing is."""
    limit = rightsize["max_length"]
    if limit is None or not (rightsize["dropped"] or rightsize["truncated"]):
        return ()
    return find_too_long(given["tokens"].with_name("train"), given["records"], limit)


def read_lines(path: Path) -> Iterator[Json]:
    """Yield the JSON objects of the lines at ``path``, one at a time.

    Raises:
        DataError: naming the line that is not one.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - the block below closes it, and only opening may find no file
    except FileNotFoundError:
        raise missing(path) from None
    with file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parse_line(path, number, line)


def _parse_line(path: Path, number: int, line: bytes) -> Json:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number}, is not JSON ({error}): delete the file and run the same command."
        ) from None
    if not isinstance(value, dict):
        raise DataError(
            f"{path}, line {number}, does not hold a JSON object: delete the file and run the same command."
        )
    return value


def read_quarantine(path: Path) -> tuple[QuarantinedLine, ...]:
    """Return a few quarantined lines: the first ones of each reason."""
    seen: Counter[str] = Counter()
    chosen: list[QuarantinedLine] = []
    for line in read_lines(path):
        reason = str(line.get("reason", "unknown"))
        seen[reason] += 1
        if seen[reason] <= QUARANTINE_PER_REASON and len(chosen) < QUARANTINE_SHOWN:
            place = f"{excerpt(line.get('path'), 200).text}, line {line.get('line')}"
            detail, raw = excerpt(line.get("detail"), LINE_CHARACTERS), excerpt(line.get("raw"), LINE_CHARACTERS)
            chosen.append(QuarantinedLine(place, reason, detail, raw))
    return tuple(sorted(chosen, key=lambda line: line.reason))


def read_duplicates(path: Path) -> tuple[DuplicatePair, ...]:
    """Return the first few duplicate pairs."""
    chosen: list[DuplicatePair] = []
    for line in read_lines(path):
        removed, kept = ((int(line[side]["source"]), int(line[side]["line"])) for side in ("removed", "kept"))
        text, other = (excerpt(line.get(name), LINE_CHARACTERS) for name in ("text", "kept_text"))
        chosen.append(DuplicatePair(removed, kept, str(line["kind"]), float(line["similarity"]), text, other))
        if len(chosen) == DUPLICATES_SHOWN:
            break
    return tuple(chosen)


def read_left_out(path: Path) -> tuple[LeftOut, ...]:
    """Return the first few records of each reason that tokenising left out."""
    seen: Counter[str] = Counter()
    chosen: list[LeftOut] = []
    for line in read_lines(path):
        reason = str(line.get("reason", "unknown"))
        seen[reason] += 1
        if seen[reason] <= QUARANTINE_PER_REASON:
            place, detail = (int(line.get("source", -1)), int(line.get("line", 0))), line.get("detail")
            chosen.append(LeftOut(str(line.get("split")), place, reason, excerpt(detail, LINE_CHARACTERS)))
    return tuple(sorted(chosen, key=lambda line: line.reason))


def read_leaks(path: Path) -> tuple[LeakPair, ...]:
    """Return the first few records of each reason that were kept from training."""
    seen: Counter[str] = Counter()
    chosen: list[LeakPair] = []
    for line in read_lines(path):
        reason = str(line.get("reason", "unknown"))
        seen[reason] += 1
        if seen[reason] <= LEAKS_PER_REASON:
            chosen.append(_leak(reason, line))
    return tuple(sorted(chosen, key=lambda leak: leak.reason))


def _leak(reason: str, line: Json) -> LeakPair:
    removed, held_out = line.get("removed") or {}, line.get("eval") or {}
    where = f"{line.get('file')}, line {line.get('line')}"
    if reason == "similar":
        where = f"held-out record from line {held_out.get('line')}"
    return LeakPair(
        reason,
        (int(removed.get("source", -1)), int(removed.get("line", 0))),
        excerpt(where, 200).text,
        float(line.get("similarity") or line.get("share") or 0.0),
        excerpt(line.get("text"), LINE_CHARACTERS),
        excerpt(line.get("eval_text", line.get("evaluation_text")), LINE_CHARACTERS),
    )
