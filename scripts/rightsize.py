"""Choose the maximum length from the data and write the small file that everything after depends on.

Arguments:
    tokens: manifest of the tokenised splits.
    model: manifest of the prepared tokenizer.
    output: rightsize.json to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Measure the lengths, decide, and fingerprint the data."""
    arguments = parse_arguments(__doc__, "tokens", "model", "output", facts=("output",))
    from snaketune.data.rows.rightsizing import RightsizeJob, rightsize_run

    rightsize_run(RightsizeJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
