"""Split records: hold out a fraction of the prompts and train on nothing that gives them or an evaluation away.

Arguments:
    settings: operational settings: scratch, threads, work.
    records: deduplicated records as JSON lines.
    train: JSON lines of training records to write.
    eval: JSON lines of held-out records to write.
    leaks: JSON lines of records that are too similar to held-out ones to write.
    manifest: manifest to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Plan the sides, copy every line to its own, and look at both again."""
    arguments = parse_arguments(
        __doc__, "settings", "records", "train", "eval", "leaks", "manifest", facts=("manifest",)
    )
    from snaketune.data.split.split_plan import SplitJob, split

    split(SplitJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
