"""Pack the documents of both splits into fixed-size rows.

Arguments:
    rightsize: rightsize.json with the length of a row.
    tokens: manifest of the tokenised splits.
    train: Arrow file of training rows to write.
    eval: Arrow file of held-out rows to write.
    manifest: manifest to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Pack, write and account for both splits."""
    arguments = parse_arguments(__doc__, "rightsize", "tokens", "train", "eval", "manifest", facts=("manifest",))
    from snaketune.data.rows.packing_job import PackingJob, pack_splits

    pack_splits(PackingJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
