"""The training job: locks, resumes or finds complete, trains in one process or several, and publishes."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from snaketune.core.atomic import write_bytes, write_json
from snaketune.core.canonical import read_json
from snaketune.core.errors import PlanError
from snaketune.core.gpus import take_cards
from snaketune.core.locks import wait_for_lock
from snaketune.core.manifest import write_manifest
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.facts.data_facts import DATA_IDENTITY, PACKING, Packing
from snaketune.facts.measured import RUN_INFO
from snaketune.facts.model_facts import PREPARED_MODEL
from snaketune.facts.plan_facts import PLAN_STOPS
from snaketune.settings.operational import Operational
from snaketune.settings.training_slices import TrainingSlice
from snaketune.storage.staging import ensure_near
from snaketune.train.checkpoints.kept_trainings import put_back
from snaketune.train.checkpoints.weight_publishing import publish_weights
from snaketune.train.distributed.nodes import find_nodes
from snaketune.train.distributed.process_group import ProcessGroup, is_worker
from snaketune.train.distributed.requeue import requeued_when_out_of_time
from snaketune.train.distributed.strategy import processes_wanted, run_workers
from snaketune.train.facts import training_facts
from snaketune.train.identity import fingerprint
from snaketune.train.loading.origins import Origins, find_origins
from snaketune.train.monitoring import provenance
from snaketune.train.monitoring.step_timers import peak_memory_facts
from snaketune.train.packages import versions
from snaketune.train.run import Finished, train

SESSION = "session.json"


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingJob:
    """The inputs of a training, named like the flags of ``train_model.py``, which documents them."""

    spec: str
    code: str
    cfg: TrainingSlice
    settings: Operational
    rightsize: Path
    plan: Path
    rows: Path
    model: Path
    start: Path | None
    rewards: list[Path]
    work: Path
    adapter: Path
    metrics: Path
    info: Path
    manifest: Path


def run_training(job: TrainingJob) -> None:
    """Train under the lock of the training's fingerprint and publish the adapter; workers only train.

    With several processes, each worker is this program once more, with the same arguments.

    Args:
        job: what is trained on what.

    Raises:
        PlanError: if the plan exceeds a limit.
        TrainingError: if the training goes wrong.
    """
    if stops := PLAN_STOPS.read(job.plan)["stops"]:
        raise PlanError(stops[0])
    count = 1 if job.cfg["train"]["strategy"] == "single" else job.cfg["plan"]["num_gpus"]
    if not is_worker():
        take_cards(count // job.settings["num_nodes"] or 1)
    # Compiled kernels serve later runs, too; torch would keep them in a temporary folder.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(job.work.absolute() / "compiled"))
    clock = provenance.Stopwatch()
    rows, model = PACKING.read_manifest(job.rows), PREPARED_MODEL.read_manifest(job.model)
    origins, found = find_origins(model, job.start, reward_models(job)), versions(job.cfg)
    identity = fingerprint(job.spec, DATA_IDENTITY.read(job.rightsize), rows, origins.digests, found)
    work = job.work / "runs" / identity
    lock = None if is_worker() else wait_for_lock(work / "lock")
    if lock and put_back(folder := job.manifest.parent, identity):
        print("This training was finished before, and its files are intact: they are published as they were.")
        print(f"To train the same once more, remove them and its state first: rm -r {folder} {work}")
        return
    # Before training: a slow disk costs seconds here, and could cost the result afterwards.
    git = provenance.describe_git(Path(__file__).parent) if lock else None
    with requeued_when_out_of_time(work) if lock else nullcontext():
        finished = _train(job, rows, work, origins, sys.argv if lock else None)
    if not lock:
        note_session(work, finished)
        return
    finished = with_session(work, finished)
    publish_weights(finished.checkpoint, job.adapter, job.model.parent / "model", model["name"], model["commit"])
    write_bytes(job.metrics, (work / "metrics.jsonl").read_bytes())
    RUN_INFO.write(job.info, {"train": clock.facts(), **_info(git, finished)})
    facts = training_facts(
        job.adapter, job.metrics, model["parameters"], finished.steps, identity, origins.digests, found
    )
    write_manifest(job.manifest, "train_model", [job.adapter], facts | finished.best)
    lock.close()


def _train(job: TrainingJob, rows: Packing, work: Path, origins: Origins, command: Sequence[str] | None) -> Finished:
    """Train in this process, after the workers if it is the one that starts them with ``command``."""
    settings = job.settings
    if command and (count := processes_wanted(job.cfg, settings["num_nodes"])) > 1:
        run_workers(count, command, find_nodes(settings["num_nodes"]))
    near = ensure_near(job.rows.parent, rows["files"], settings["scratch"], job.work)
    splits = [PackedRows(near[name]) for name in ("train.arrow", "eval.arrow")]
    judges = {name: path.with_name("merged") for name, path in reward_models(job).items()}
    return train(job.model.parent / "model", splits[0], splits[1], job.cfg, settings, work, origins.start, judges)


def reward_models(job: TrainingJob) -> dict[str, Path]:
    """Return the facts of the merge of each reward model that the training uses, by its name in the configuration."""
    names = [name for name in job.cfg["train"]["grpo"]["rewards"] if name.startswith("run:")] if job.rewards else []
    return dict(zip(names, job.rewards, strict=True))


def _info(git: Any, finished: Finished) -> dict[str, Any]:
    """Return the volatile facts of a training: machine, memory and this session."""
    return {
        "machine": provenance.describe_machine(),
        "git": git,
        "peak_memory": peak_memory_facts(),
        "resumed_from_step": finished.resumed_from,
        "tokens_this_time": finished.tokens_this_time,
        **finished.info,
    }


def note_session(work: Path, finished: Finished) -> None:
    """Store the volatile facts of a training by several processes; the main process writes."""
    if ProcessGroup.of_environment().is_main_process:
        facts = {"resumed_from": finished.resumed_from, "tokens_this_time": finished.tokens_this_time}
        write_json(work / SESSION, {**facts, "info": finished.info})


def with_session(work: Path, finished: Finished) -> Finished:
    """Return a training that was found complete with the facts that :func:`note_session` stored, if any."""
    path = work / SESSION
    return dataclasses.replace(finished, **read_json(path)) if path.is_file() else finished
