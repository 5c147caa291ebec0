"""Ablate a run: measure each optimisation of the guides off and on, and all together, on this machine.

Arguments:
    settings: operational settings: scratch and loading of rows.
    rightsize: rightsize.json of the run.
    tokens: manifest of the tokenised splits.
    records: training records as JSON lines.
    pack: manifest of the packed rows.
    model: manifest of the base model.
    stage: stage.json with the sources.
    work: folder of resumable state.
    name: name of the run.
    output: ablate.json to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Measure every case that was not measured before an interruption, and write ablate.json."""
    names = ("settings", "rightsize", "tokens", "records", "pack", "model", "stage", "work", "output")
    arguments = parse_arguments(__doc__, *names, texts=("name",), facts=("output",))
    from snaketune.ablate.running import AblationJob, ablate_run

    ablate_run(AblationJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
