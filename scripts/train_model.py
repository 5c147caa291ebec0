"""Train the adapter: resumes by itself, publishes only a finished training."""

from pathlib import Path

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Train under the lock of the run's fingerprint and publish the adapter."""
    names = ("settings", "rightsize", "rows", "model", "work", "adapter", "metrics", "info", "manifest")
    arguments = parse_arguments(__doc__, *names)
    from snaketune.common.atomic import write_bytes, write_json
    from snaketune.common.canonical import read_json
    from snaketune.common.locks import wait_for_lock
    from snaketune.common.manifest import read_manifest, write_manifest
    from snaketune.data.rows import PackedRows
    from snaketune.train import provenance
    from snaketune.train.facts import adapter_facts
    from snaketune.train.publishing import publish_adapter
    from snaketune.train.run import fingerprint, train

    clock = provenance.Stopwatch()
    rightsize, rows, model = (
        read_json(arguments.rightsize),
        read_manifest(arguments.rows),
        read_manifest(arguments.model),
    )
    identity = fingerprint(arguments.spec, rightsize, rows)
    work = Path(arguments.work) / "runs" / identity
    lock = wait_for_lock(work / "lock")
    folder = Path(arguments.rows).parent
    finished = train(
        Path(arguments.model).parent / "model",
        PackedRows(folder / "train.arrow"),
        PackedRows(folder / "eval.arrow"),
        arguments.cfg,
        arguments.settings,
        work,
    )
    adapter = Path(arguments.adapter)
    publish_adapter(finished.checkpoint, adapter, model["name"], model.get("commit"))
    write_bytes(arguments.metrics, (work / "metrics.jsonl").read_bytes())
    info = {
        "train": clock.facts(),
        "machine": provenance.describe_machine(),
        "git": provenance.describe_git(Path(__file__).parent),
        "peak_memory": provenance.peak_memory(),
        "resumed_from_step": finished.resumed_from,
        "tokens_this_time": finished.tokens_this_time,
    }
    write_json(arguments.info, info)
    facts = adapter_facts(adapter, Path(arguments.metrics), model["parameters"], finished.steps, identity)
    write_manifest(arguments.manifest, "train_model", [adapter], facts)
    lock.close()


if __name__ == "__main__":
    run(main)
