"""Render the report: one self-contained HTML page per run, from the fact files that the stages left."""

from snaketune.common.atomic import write_bytes
from snaketune.common.door import parse_arguments, run

FACT_FILES = (
    "run",
    "reading",
    "dedupe",
    "split",
    "tokens",
    "pack",
    "quarantine",
    "duplicates",
    "rightsize",
    "metrics",
    "evaluation",
    "generations",
    "adapter",
)
OPTIONAL = ("merged", "plan", "info", "timing", "leaks")


def main() -> None:
    """Read the facts, render the page, write it atomically."""
    arguments = parse_arguments(__doc__, *FACT_FILES, "output", optional=OPTIONAL)
    from snaketune.report.facts import load_facts
    from snaketune.report.page import render

    facts = load_facts({name: getattr(arguments, name) for name in (*FACT_FILES, *OPTIONAL)})
    write_bytes(arguments.output, render(facts).encode())


if __name__ == "__main__":
    run(main)
