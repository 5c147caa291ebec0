"""Describe a run: its resolved configuration, the digests of all that it was made from, and one fingerprint."""

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Write run.json from the fact files and the resolved configuration."""
    names = ("resolved", "rightsize", "stage", "tokens", "rows", "model", "adapter", "output")
    arguments = parse_arguments(__doc__, *names, optional=("merged",))
    from snaketune.common.atomic import write_json
    from snaketune.common.canonical import read_json
    from snaketune.report.description import describe

    facts = {name: read_json(getattr(arguments, name)) for name in names[:-1]}
    merged = read_json(arguments.merged) if arguments.merged else None
    write_json(arguments.output, describe(arguments.cfg, facts, merged))


if __name__ == "__main__":
    run(main)
