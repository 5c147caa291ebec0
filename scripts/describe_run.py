"""Describe a run: its resolved configuration, the digests of all that it was made from, and one fingerprint.

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

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Write run.json from the fact files and the resolved configuration, and history.json from what went before."""
    names = ("resolved", "rightsize", "stage", "tokens", "rows", "model", "adapter")
    arguments = parse_arguments(
        __doc__, *names, "settings", "info", "history", "output", optional=("merged",), facts=("history", "output")
    )
    from snaketune.core.canonical import read_json
    from snaketune.facts.measured import RUN_INFO
    from snaketune.facts.run import HISTORY, RUN
    from snaketune.report.run.history import describe, run_before, stage_times

    facts = {name: read_json(getattr(arguments, name)) for name in names}
    merged = read_json(arguments.merged) if arguments.merged else None
    settings, folder = arguments.settings, Path(arguments.output).parent
    before = run_before(Path(settings["results"]), folder, RUN_INFO.read(arguments.info))
    HISTORY.write(
        arguments.history, {"stages": stage_times(settings["stages"], Path(settings["lock"])), "before": before}
    )
    RUN.write(arguments.output, describe(arguments.cfg, facts, merged))


if __name__ == "__main__":
    run(main)
