"""The history of a run: when stages ran, which were reused, the previous run; and run.json, its identity."""

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from snaketune.core.canonical import digest_of
from snaketune.facts.data_facts import DATA_IDENTITY, PACKING, STAGED, Packing, StagedSources
from snaketune.facts.measured import RUN_INFO, RunInfo
from snaketune.facts.merge_facts import MERGED, Merged
from snaketune.facts.model_facts import BASE_MODEL, BaseModel
from snaketune.facts.run_facts import HISTORY, RESOLVED, RUN, Digests, ResolvedConfig, RunBefore, StageTime
from snaketune.facts.token_facts import TOKENS, Tokens
from snaketune.facts.training_facts import TRAINED, Trained
from snaketune.report import units
from snaketune.report.compare.comparison import NOT_SET, hours
from snaketune.report.report_facts import RunPageFacts
from snaketune.report.run.machine_section import BarPart
from snaketune.report.run.reproducing import shown_value
from snaketune.report.text import excerpt
from snaketune.workflow.stage_table import TABLE

TITLES = {stage.name: stage.title for stage in TABLE if stage.title}


def stage_times(stages: Iterable[Mapping[str, str]], lock: Path) -> list[StageTime]:
    """Return when each stage ended, how long it took and whether it existed before this workflow began.

    Args:
        stages: ``stage``, ``id`` and ``benchmark`` (the file in which Snakemake notes a job's seconds) of each.
        lock: a file that the workflow wrote when it began.

    Returns:
        One entry per stage in the order of ``stages``; without a benchmark file nothing is known and times are None.
    """
    # The lock is written when a workflow starts: a stage that ended before it was reused.
    began = lock.stat().st_mtime if lock.is_file() else 0.0
    return [_time_of(one, began) for one in stages]


def _time_of(stage: Mapping[str, str], began: float) -> StageTime:
    time: StageTime = {"stage": stage["stage"], "id": stage["id"], "seconds": None, "finished": None, "reused": None}
    benchmark = Path(stage["benchmark"])
    try:
        header, values, *_ = benchmark.read_text(encoding="utf-8").splitlines()
        ended = benchmark.stat().st_mtime
    except (FileNotFoundError, ValueError):
        return time
    noted = dict(zip(header.split("\t"), values.split("\t"), strict=False))
    finished = datetime.fromtimestamp(ended, UTC).isoformat(timespec="milliseconds")
    return {**time, "seconds": float(noted["s"]), "finished": finished, "reused": ended < began}


def run_before(results: Path, folder: Path, info: RunInfo) -> RunBefore | None:
    """Return the run that was trained last before this one, the same run's earlier variant if there is one.

    Args:
        results: the results folder.
        folder: this run's folder, ``runs/<run>/<id>``.
        info: this run's run_info.json.

    Returns:
        ``run``, ``id``, ``finished`` and its ``config`` as flat keys and values; None for the first run.
    """
    own, found = _finished(info), []
    for path in sorted(results.glob("runs/*/*/run.json")):
        earlier = path.parent
        # `latest` is a link to one of the folders next to it, which would count twice.
        if os.path.realpath(earlier) == os.path.realpath(folder) or earlier.is_symlink():
            continue
        note = earlier / "run_info.json"
        ended = _finished(RUN_INFO.read(note)) if note.is_file() else None
        if ended and own and ended < own:
            # Tuples compare from the left: a variant of the same run comes before any other run, and among equals the
            # last one.
            found.append(((earlier.parent.name == folder.parent.name, ended, earlier.name), path))
    if not found:
        return None
    (_, ended, _), path = max(found)
    run = RUN.read(path)
    config = {key: entry["value"] for key, entry in run["config"].items()}
    return {"run": run["run"], "id": run["id"], "finished": ended.isoformat(), "config": config}


def _finished(info: RunInfo) -> datetime | None:
    text = info["train"]["finished"]
    return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True, slots=True)
class StageRow:
    """A line of the timeline; ``state`` is ``ran``, ``reused`` or ``unknown``."""

    title: str
    id: str
    state: str
    seconds: str
    bar: BarPart | None


def timeline(facts: RunPageFacts) -> tuple[StageRow, ...]:
    """Return the timeline of stages that ran, and those that were reused."""
    stages = facts.history["stages"] if facts.history else []
    ran = [_span(one) for one in stages if one["reused"] is False and one["finished"]]
    if not stages:
        return ()
    begin, end = min((span[0] for span in ran), default=0.0), max((span[1] for span in ran), default=0.0)
    return tuple(_row(one, begin, max(end - begin, 1e-9)) for one in stages)


def _span(stage: StageTime) -> tuple[float, float]:
    end = datetime.fromisoformat(stage["finished"] or "").timestamp()
    return end - (stage["seconds"] or 0.0), end


def _row(stage: StageTime, begin: float, length: float) -> StageRow:
    reused, seconds = stage["reused"], stage["seconds"]
    bar = None
    if reused is False and seconds is not None and stage["finished"]:
        start = 100 * (_span(stage)[0] - begin) / length
        # At least 0.4% wide: the bar of a short stage would not be visible.
        bar = BarPart("", "", "", f"{start:.2f}", f"{max(100 * seconds / length, 0.4):.2f}")
    title = TITLES.get(stage["stage"]) or excerpt(stage["stage"].replace("_", " ").capitalize(), 100).text
    state = "unknown" if reused is None else "reused" if reused else "ran"
    return StageRow(title, excerpt(stage["id"], 100).text, state, "" if seconds is None else hours(seconds), bar)


@dataclass(frozen=True, slots=True)
class ChangedSettings:
    """Settings that differ from the previous run: key, its value there and its value here."""

    name: str
    finished: str
    rows: tuple[tuple[str, str, str], ...]


def changes(facts: RunPageFacts) -> ChangedSettings | None:
    """Return the difference of the configuration to the run before, or None for the first run."""
    before = facts.history["before"] if facts.history else None
    if not before:
        return None
    now = {key: entry["value"] for key, entry in facts.run["config"].items()}
    then = before["config"]
    keys = sorted(key for key in {*now, *then} if now.get(key) != then.get(key) or (key in now) != (key in then))
    rows = tuple((key, _value(then, key), _value(now, key)) for key in keys)
    name = excerpt(f"{before['run']} {before['id']}", 120).text
    return ChangedSettings(name, before["finished"][:16].replace("T", " "), rows)


def _value(config: Mapping[str, Any], key: str) -> str:
    return shown_value(config[key]) if key in config else NOT_SET


def machine_facts(facts: RunPageFacts) -> tuple[tuple[str, str], ...]:
    """Return where and from which checkout the run was made; unknown facts are left out."""
    git, gpu = facts.measured["git"], facts.measured["machine"]["gpu"]
    rows = (
        ("git commit", git["commit"] or "not a git checkout"),
        ("uncommitted changes", git["uncommitted"]),
        ("GPU", gpu["name"] or "none"),
        ("GPU memory", units.file_size(gpu["memory_bytes"]) if gpu["name"] else None),
        ("CUDA", gpu["cuda"]),
        ("processor features", facts.measured["machine"]["cpu_capability"]),
        ("system", facts.measured["machine"]["platform"]),
        ("host", facts.measured["machine"]["host"]),
        ("trained", _when(facts)),
        ("resumed from step", _resumed(facts)),
    )
    return tuple((label, excerpt(value, 200).text) for label, value in rows if value) if facts.info else ()


def _when(facts: RunPageFacts) -> str | None:
    started, finished = facts.measured["train"]["started"], facts.measured["train"]["finished"]
    return f"{started} to {finished}" if started and finished else None


def _resumed(facts: RunPageFacts) -> str | None:
    step = facts.measured["resumed_from_step"]
    return None if step is None else units.count(step)


class Description(TypedDict):
    """The workflow's description of a run: the configuration slice and the code digest of each stage."""

    run: str
    id: str
    stages: dict[str, dict[str, Any]]
    code: dict[str, str]


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """The fact files of a run that its identity covers: ``data`` is the fingerprint of its tokens and their length.

    ``merged`` is None where the run does not merge.
    """

    resolved: ResolvedConfig
    data: str
    stage: StagedSources
    tokens: Tokens
    rows: Packing
    model: BaseModel
    adapter: Trained
    merged: Merged | None

    def digests(self) -> Digests:
        """Return the content digests; what another run made has its digest there, so that chains can be followed."""
        model, merged, origins = self.model, self.merged, self.adapter["origins"]
        found: Digests = {
            "data": self.data,
            "rows": digest_of(self.rows["files"]),
            "tokenizer": model["tokenizer_digest"],
            "chat_template": self.tokens["files"]["chat_template.jinja"]["digest"],
            "base_model": model["weights_digest"],
            "adapter": digest_of(self.adapter["files"]),
            "merged": digest_of(merged["files"]) if merged and merged["files"] else None,
        }
        if base_run := model["merged_digest"]:
            found["base_run"] = base_run
        if start := origins.get("adapter"):
            found["start_adapter"] = start
        return found


def run_identity(cfg: Description, facts: MadeFrom) -> dict[str, Any]:
    """Return the identity of a run: what it was made from, with one fingerprint over all of it.

    Args:
        cfg: ``run``, ``id``, ``stages`` (configuration slice of each stage) and ``code`` (digest of each stage's code).
        facts: the fact files.
    """
    resolved, adapter, sources = facts.resolved, facts.adapter, facts.stage["sources"]
    digests: Digests = {**facts.digests(), "code": cfg["code"]}
    versions = {"python": platform.python_version(), **adapter["versions"]}
    identity = {
        "stages": cfg["stages"],
        "digests": digests,
        "versions": versions,
        "sources": [source["digest"] for source in sources],
    }
    return {
        **({"earlier": resolved["earlier"]} if resolved["earlier"] else {}),
        "run": cfg["run"],
        "id": cfg["id"],
        "fingerprint": digest_of(identity),
        "training_fingerprint": adapter["fingerprint"],
        "config": resolved["config"],
        "digests": digests,
        "sources": sources,
        "versions": versions,
        "seeds": {name: resolved["config"][name]["value"] for name in ("train.seed", "split.seed")},
        "notes": resolved["notes"],
    }


@dataclass(frozen=True, slots=True)
class DescriptionJob:
    """The inputs of a description, named like the flags of ``describe_run.py``."""

    spec: str
    code: str
    cfg: Any
    settings: dict[str, Any]
    resolved: Path
    rightsize: Path
    stage: Path
    tokens: Path
    rows: Path
    model: Path
    adapter: Path
    info: Path
    merged: Path | None
    history: Path
    output: Path


def describe_run(job: DescriptionJob) -> None:
    """Write run.json from the fact files and the resolved configuration, and history.json from the earlier runs."""
    settings = job.settings
    facts = MadeFrom(
        resolved=RESOLVED.read(job.resolved),
        data=DATA_IDENTITY.read(job.rightsize)["fingerprint"],
        stage=STAGED.read(job.stage),
        tokens=TOKENS.read(job.tokens),
        rows=PACKING.read(job.rows),
        model=BASE_MODEL.read(job.model),
        adapter=TRAINED.read(job.adapter),
        merged=MERGED.read(job.merged) if job.merged else None,
    )
    before = run_before(Path(settings["results"]), job.output.parent, RUN_INFO.read(job.info))
    HISTORY.write(job.history, {"stages": stage_times(settings["stages"], Path(settings["lock"])), "before": before})
    RUN.write(job.output, run_identity(job.cfg, facts))
