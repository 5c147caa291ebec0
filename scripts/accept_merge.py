"""Accept a merged model, or fail with the reason why the merge was refused.

Arguments:
    merge: merge.json with the outcome of the merge.
    output: manifest of the merged model to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Write the manifest of the merged model from the facts of its merge."""
    arguments = parse_arguments(__doc__, "merge", "output", facts=("output",))
    from snaketune.core.atomic import write_json
    from snaketune.merge.outcome import accepted

    write_json(arguments.output, accepted(arguments.merge))


if __name__ == "__main__":
    run(main)
