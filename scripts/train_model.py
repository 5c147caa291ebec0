"""Train the adapter: resumes by itself, publishes only a finished training.

Arguments:
    settings: operational settings of the training.
    rightsize: rightsize.json of the run.
    plan: plan.json, whose limits are refused.
    rows: manifest of the packed rows.
    model: manifest of the base model.
    start: manifest of the adapter to go on from.
    work: folder of resumable state.
    adapter: folder of the adapter to write.
    metrics: JSON lines of metrics to write.
    info: run_info.json to write.
    manifest: manifest of the adapter to write.
"""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Train under the lock of the run's fingerprint and publish the adapter."""
    names = ("settings", "rightsize", "plan", "rows", "model", "work", "adapter", "metrics", "info", "manifest")
    arguments = parse_arguments(__doc__, *names, optional=("start",), facts=("metrics", "info", "manifest"))
    from snaketune.train.packages import spare_unused, versions

    spare_unused(arguments.cfg)
    from snaketune.core.atomic import write_bytes
    from snaketune.core.canonical import read_json
    from snaketune.core.errors import PlanError
    from snaketune.core.gpus import take_cards
    from snaketune.core.locks import wait_for_lock
    from snaketune.core.manifest import read_manifest, write_manifest
    from snaketune.data.rows.packed_rows import PackedRows
    from snaketune.facts.measured import RUN_INFO
    from snaketune.storage.staging import ensure_near
    from snaketune.train.checkpoints.kept_trainings import put_back
    from snaketune.train.checkpoints.publishing import publish
    from snaketune.train.distributed.nodes import find_nodes
    from snaketune.train.distributed.process_group import is_worker
    from snaketune.train.distributed.requeue import requeued_when_out_of_time
    from snaketune.train.distributed.strategy import processes_wanted, run_workers
    from snaketune.train.distributed.worker_results import note_session, with_session
    from snaketune.train.facts import training_facts
    from snaketune.train.identity import fingerprint
    from snaketune.train.loading.origins import find_origins
    from snaketune.train.monitoring import provenance
    from snaketune.train.monitoring.step_timers import peak_memory
    from snaketune.train.run import train

    if stops := read_json(arguments.plan).get("stops"):
        raise PlanError(stops[0])
    count = 1 if arguments.cfg["train"]["strategy"] == "single" else arguments.cfg["plan"]["num_gpus"]
    if not is_worker():
        take_cards(count // arguments.settings["num_nodes"] or 1)
    # Compiled kernels serve later runs, too; torch would keep them in a temporary folder.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(arguments.work).absolute() / "compiled"))
    clock = provenance.Stopwatch()
    rightsize, rows = read_json(arguments.rightsize), read_manifest(arguments.rows)
    model = read_manifest(arguments.model)
    origins, found = find_origins(model, arguments.start), versions(arguments.cfg)
    identity = fingerprint(arguments.spec, rightsize, rows, origins.digests, found)
    work = Path(arguments.work) / "runs" / identity
    lock = None if is_worker() else wait_for_lock(work / "lock")
    if lock and put_back(folder := Path(arguments.manifest).parent, identity):
        print("This training was finished before, and its files are intact: they are published as they were.")
        print(f"To train the same once more, remove them and its state first: rm -r {folder} {work}")
        return
    # Before anything is computed: a slow disk costs seconds here, and would cost the result afterwards.
    git = provenance.describe_git(Path(__file__).parent) if lock else None
    base, settings = Path(arguments.model).parent / "model", arguments.settings
    with requeued_when_out_of_time(work) if lock else nullcontext():
        if lock and (count := processes_wanted(arguments.cfg, settings["num_nodes"])) > 1:
            run_workers(count, sys.argv, find_nodes(settings["num_nodes"]))
        near = ensure_near(Path(arguments.rows).parent, rows["files"], settings["scratch"], arguments.work)
        splits = [PackedRows(near[name]) for name in ("train.arrow", "eval.arrow")]
        finished = train(base, splits[0], splits[1], arguments.cfg, settings, work, origins.start)
    if not lock:
        note_session(work, finished)
        return
    finished = with_session(work, finished)
    adapter = Path(arguments.adapter)
    publish(finished.checkpoint, adapter, base, model["name"], model.get("commit"))
    write_bytes(arguments.metrics, (work / "metrics.jsonl").read_bytes())
    info = {
        "train": clock.facts(),
        "machine": provenance.describe_machine(),
        "git": git,
        "peak_memory": peak_memory(),
        "resumed_from_step": finished.resumed_from,
        "tokens_this_time": finished.tokens_this_time,
        **finished.info,
    }
    RUN_INFO.write(arguments.info, info)
    size, steps = model["parameters"], finished.steps
    facts = training_facts(adapter, Path(arguments.metrics), size, steps, identity, origins.digests, found)
    write_manifest(arguments.manifest, "train_model", [adapter], facts | finished.best)
    lock.close()


if __name__ == "__main__":
    run(main)
