"""Split records: hold out a fraction of the prompts for evaluation."""

from pathlib import Path

from snaketune.common.atomic import writing
from snaketune.common.door import parse_arguments, run
from snaketune.common.manifest import write_manifest
from snaketune.data.splitting import split


def main() -> None:
    """Write the training and the held-out split."""
    arguments = parse_arguments(__doc__, "records", "train", "eval", "manifest")
    settings = arguments.cfg["split"]
    with writing(arguments.train) as train, writing(arguments.eval) as held_out:
        counts = split(
            lambda: Path(arguments.records).open("rb"),  # noqa: SIM115 - closed when read to its end
            settings["test_size"],
            settings["seed"],
            train,
            held_out,
        )
    write_manifest(arguments.manifest, "split_records", [arguments.train, arguments.eval], counts)


if __name__ == "__main__":
    run(main)
