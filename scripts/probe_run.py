"""Probe a run: a short measured training on this machine with the run's own rows, for its plan.

Arguments:
    settings: operational settings of the training.
    pack: manifest of the packed rows.
    model: manifest of the base model.
    results: folder of all results, where probes are kept.
    scratch: private folder for the measured training.
    output: probe.json to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Write what was measured, or what was measured before under the same conditions."""
    arguments = parse_arguments(__doc__, "settings", "pack", "model", "results", "scratch", "output", facts=("output",))
    from snaketune.train.probe.probe_record import ProbeJob, probe_run

    probe_run(ProbeJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
