"""Probe a run: a short measured training on this machine with the run's own rows, for its plan.

Arguments:
    settings: operational settings of the training.
    pack: manifest of the packed rows.
    model: manifest of the base model.
    results: folder of all results, where probes are kept.
    scratch: private folder for the measured training.
    output: probe.json to write.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Write what was measured, or what was measured before under the same conditions."""
    arguments = parse_arguments(__doc__, "settings", "pack", "model", "results", "scratch", "output", facts=("output",))
    from snaketune.core.atomic import write_json
    from snaketune.core.canonical import read_json
    from snaketune.core.gpus import take_cards
    from snaketune.core.locks import wait_for_lock
    from snaketune.plan.costs.probed import describe_probe
    from snaketune.train.probe.probe_record import ProbeRequest, probe_of

    take_cards()
    scratch = Path(arguments.scratch)
    # One at a time: two probes on one device would measure each other.
    lock = wait_for_lock(scratch / "lock")
    record = probe_of(
        ProbeRequest(
            cfg=arguments.cfg,
            settings=arguments.settings,
            model=read_json(arguments.model),
            model_folder=Path(arguments.model).parent / "model",
            pack=read_json(arguments.pack),
            rows_folder=Path(arguments.pack).parent,
            results=Path(arguments.results),
            scratch=scratch,
            tunes=arguments.cfg["autotune"],
        )
    )
    for line in describe_probe(record):
        print(line, flush=True)
    write_json(arguments.output, record)
    lock.close()


if __name__ == "__main__":
    run(main)
