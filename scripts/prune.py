"""List the variants that no configured run uses; with `--config prune=yes` remove them.

Arguments:
    output: text file of the list to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Find unused variants, print them with their size, and remove them when asked to."""
    arguments = parse_arguments(__doc__, "output")
    from snaketune.core.atomic import write_bytes
    from snaketune.workflow.results.pruning import prune

    lines = prune(arguments.cfg)
    print("\n".join(lines), flush=True)
    write_bytes(arguments.output, "\n".join([*lines, ""]).encode())


if __name__ == "__main__":
    run(main)
