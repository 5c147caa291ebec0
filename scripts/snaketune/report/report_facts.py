"""The facts of one run, read from its stages' files with bounded memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snaketune.core.outputs import changed_outputs
from snaketune.facts.data_facts import Deduplication, Packing, Reading, Rightsize, Split
from snaketune.facts.evaluation_facts import Evaluation
from snaketune.facts.lines import MetricsLine, read_lines
from snaketune.facts.measured import NOTHING_MEASURED, EvaluationInfo, RunInfo
from snaketune.facts.merge_facts import Merged
from snaketune.facts.of_run import FACT_FILES
from snaketune.facts.plan_facts import Plan
from snaketune.facts.run_facts import History, RunIdentity
from snaketune.facts.shapes import shaped
from snaketune.facts.token_facts import Tokens
from snaketune.facts.training_facts import Trained
from snaketune.report.charts.curves import Curve, StepProgress, gather
from snaketune.report.listed_records import (
    DuplicatePair,
    LeakPair,
    LeftOutRecord,
    QuarantinedLine,
    read_duplicates,
    read_leaks,
    read_left_out,
    read_quarantine,
)
from snaketune.report.run.answers import ShownAnswers, collect, collect_by_file
from snaketune.report.run.too_long import TooLong, find_too_long

DOCUMENTS = {name: kind for name, kind in FACT_FILES.items() if name not in ("base", "origin")}
OPTIONAL = ("merged", "plan", "info", "timing", "history")


@dataclass(frozen=True, slots=True)
class RunPageFacts:
    """All inputs of the report: the fact files as read; ``merged`` is None without a merge."""

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
    answers: ShownAnswers
    plan: Plan | None = None
    """plan.json; it and ``info`` are the only facts that depend on a machine, on prices and on the clock."""
    info: RunInfo | None = None
    """run_info.json."""
    timing: EvaluationInfo | None = None
    """evaluation_info.json; also measured."""
    file_answers: Mapping[str, ShownAnswers] = field(default_factory=dict)
    """Answers to the questions of external files, by the name of the file."""
    leaks: tuple[LeakPair, ...] = ()
    left_out: tuple[LeftOutRecord, ...] = ()
    too_long: tuple[TooLong, ...] = ()
    progress: Mapping[int, StepProgress] = field(default_factory=dict)
    """Progress at each logged step; its seconds are measured."""
    rates: Mapping[str, Curve] = field(default_factory=dict)
    """Curves of what was measured on the machine."""
    history: History | None = None
    """history.json: which stages ran when, and the run before this one; measured as well."""
    changed: tuple[str, ...] = ()
    """Names of fact files that differ from what their jobs wrote."""

    @property
    def measured(self) -> RunInfo:
        """run_info.json; all values are unknown without it."""
        return self.info or NOTHING_MEASURED


def load_facts(paths: Mapping[str, str | None]) -> RunPageFacts:
    """Read the fact files of a run.

    Args:
        paths: path by name, named like the arguments of ``render_report.py``; ``merged``, ``plan``, ``info``,
            ``timing``, ``leaks``, ``dropped``, ``records`` and ``history`` may be None.

    Raises:
        DataError: if a file is missing, damaged or of a newer format.
    """
    given = {name: Path(path) for name, path in paths.items() if path}
    metrics = gather(read_lines(given["metrics"], MetricsLine))
    found: dict[str, Any] = {
        name: None if name in OPTIONAL and name not in given else kind.read(given[name])
        for name, kind in DOCUMENTS.items()
    }
    return RunPageFacts(
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
    run: str, id: str, curves: Mapping[str, Curve], rates: Mapping[str, Curve], progress: Mapping[int, StepProgress]
) -> RunPageFacts:
    """Return the facts of a run that has only its curves."""
    documents = {name: {"run": run, "id": id} if name == "run" else {} for name in DOCUMENTS if name not in OPTIONAL}
    empty: dict[str, Any] = {name: shaped(value, DOCUMENTS[name].kind) for name, value in documents.items()}
    rest: dict[str, Any] = {"merged": None, "quarantine": (), "duplicates": (), "answers": ShownAnswers()}
    return RunPageFacts(**empty, **rest, curves=curves, rates=rates, progress=progress)


def _changed(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the names of the files that were edited or damaged since; each is read in full."""
    given = set(paths)
    folders = dict.fromkeys(path.parent for path in paths)
    outputs = (output for folder in folders for output in changed_outputs(folder, verify=True))
    return tuple(sorted(output.path.name for output in outputs if output.path in given))


def _too_long(given: Mapping[str, Path], rightsize: Rightsize) -> tuple[TooLong, ...]:
    """Return examples of documents longer than the maximum length; without any, no file is opened."""
    limit = rightsize["max_length"]
    if limit is None or not (rightsize["dropped"] or rightsize["truncated"]):
        return ()
    return find_too_long(given["tokens"].with_name("train"), given["records"], limit)
