"""Split records: hold out a fraction of the prompts, and drop training records that leak them or an evaluation.

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
    """Plan the split, copy every line to its side, and check both sides."""
    arguments = parse_arguments(
        __doc__, "settings", "records", "train", "eval", "leaks", "manifest", facts=("manifest",)
    )
    from snaketune.data.split.split_plan import SplitJob, split

    split(SplitJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
