"""Progress of a failed or killed run, from logs, results so far and the trainer's private state."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from snaketune.facts.data_facts import DATA_IDENTITY, PACKING
from snaketune.facts.model_facts import PREPARED_MODEL
from snaketune.facts.plan_facts import planned_steps
from snaketune.facts.training_facts import TRAINED
from snaketune.report.charts.curves import Metrics, gather, growing_lines
from snaketune.train.checkpoints.checkpoints import checkpoint_facts, checkpoint_steps, is_sealed
from snaketune.train.identity import fingerprint
from snaketune.train.loading.origins import find_origins
from snaketune.train.packages import versions

SENTENCE = re.compile(r"^[\w.]*Error\b.*", re.MULTILINE)
LOG_BYTES = 64_000
TAIL_LINES = 15
LOG_LINE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class StageState:
    """A stage of the run: ``state`` is ``done``, ``stopped`` or ``not reached``; ``log`` where there is one."""

    stage: str
    state: str
    log: str


@dataclass(frozen=True, slots=True)
class Training:
    """The trainer's state: steps done and wanted, and the step that training continues from."""

    metrics: Metrics
    max_steps: int | None
    checkpoint: int | None


@dataclass(frozen=True, slots=True)
class UnfinishedRun:
    """The contents of the page of an unfinished run."""

    run: str
    id: str
    stages: tuple[StageState, ...]
    error: str
    tail: tuple[str, ...]
    training: Training
    planned_steps: int | None
    command: str


def gather_unfinished_run(found: Mapping[str, Any], private: Path | None, command: str) -> UnfinishedRun | None:
    """Return what is known of an unfinished run, or None if no stage of it has been started.

    Args:
        found: ``run``, ``id``, ``folder`` of the run and ``stages``, each with ``stage``, ``output`` and ``log``.
        private: the folder of the trainer's state, None where it is not known.
        command: the command that continues the run.
    """
    stages = stage_states(found["stages"])
    stopped = next((stage for stage in stages if stage.state == "stopped"), None)
    if stopped is None and not any(Path(one["output"]).is_file() for one in found["stages"]):
        return None
    tail = log_tail(Path(stopped.log)) if stopped else ""
    sentences = SENTENCE.findall(tail)
    return UnfinishedRun(
        run=found["run"],
        id=found["id"],
        stages=stages,
        error=sentences[-1] if sentences else "",
        tail=tuple(line[:LOG_LINE_CHARACTERS] for line in tail.splitlines() if line.strip())[-TAIL_LINES:],
        training=training_state(Path(found["folder"]), private),
        planned_steps=planned_steps(Path(found["folder"])),
        command=command,
    )


def stage_states(stages: Sequence[Mapping[str, str]]) -> tuple[StageState, ...]:
    """Return the state of each stage: the first one without a result that has a log is where the run stopped."""
    missing = [stage for stage in stages if not Path(stage["output"]).is_file()]
    stopped = next((stage for stage in missing if Path(stage["log"]).is_file()), None)
    states = {id(stage): "stopped" if stage is stopped else "not reached" for stage in missing}
    return tuple(
        StageState(stage["stage"], states.get(id(stage), "done"), stage["log"] if Path(stage["log"]).is_file() else "")
        for stage in stages
    )


def log_tail(path: Path) -> str:
    """Return the end of a log; of a line that was overwritten on a terminal, only its last content."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        text = file.read().decode("utf-8", "replace")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def training_state(folder: Path, private: Path | None) -> Training:
    """Return how far training came: from the run's folder when it is finished, else from its private state."""
    if (folder / "adapter.manifest.json").is_file():
        steps = TRAINED.read(folder / "adapter.manifest.json")["steps"]
        return Training(gather(growing_lines(folder / "metrics.jsonl")), steps, steps)
    if private is None:
        return Training(gather([]), None, None)
    newest = newest_checkpoint(private)
    facts = checkpoint_facts(private / f"checkpoint-{newest}") if newest is not None else {}
    return Training(gather(growing_lines(private / "metrics.jsonl")), facts.get("max_steps"), newest)


def newest_checkpoint(private: Path) -> int | None:
    """Return the step of the newest sealed checkpoint; whether its files are intact is checked when it is used."""
    return next((step for step in checkpoint_steps(private) if is_sealed(private, step)), None)


def identity_of(found: Mapping[str, Any]) -> str | None:
    """Return the fingerprint of a run's training, which names its private folder, or None before it is decided.

    It needs the packages that train to be installed, because their versions are part of it; none of them is loaded.
    """
    rewards = {name: Path(path) for name, path in found["rewards"].items()}
    wanted = [*(found[name] for name in ("rightsize", "rows", "model", "start") if found[name]), *rewards.values()]
    if not all(Path(path).is_file() for path in wanted):
        return None
    data, rows = DATA_IDENTITY.read(found["rightsize"]), PACKING.read(found["rows"])
    digests = find_origins(PREPARED_MODEL.read(found["model"]), found["start"], rewards).digests
    return fingerprint(found["training"], data, rows, digests, versions(orjson.loads(found["training"])["cfg"]))
