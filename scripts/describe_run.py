"""Describe a run: its resolved configuration, the digests of all its inputs, and one fingerprint.

Arguments:
    resolved: resolved configuration with origins.
    rightsize: rightsize.json of the run.
    stage: stage.json with the sources.
    tokens: manifest of the tokenised splits.
    rows: manifest of the packed rows.
    model: manifest of the base model.
    adapter: manifest of the adapter.
    settings: operational settings: where the times of stages are.
    info: run_info.json of the training.
    merged: merge.json, for a run that merges.
    history: history.json to write.
    output: run.json to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Write run.json from facts and resolved configuration, and history.json from times and the previous run."""
    names = ("resolved", "rightsize", "stage", "tokens", "rows", "model", "adapter", "settings", "info", "history")
    arguments = parse_arguments(__doc__, *names, "output", optional=("merged",), facts=("history", "output"))
    from snaketune.report.run.history import DescriptionJob, describe_run

    describe_run(DescriptionJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
