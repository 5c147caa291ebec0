"""Render an ablation: one self-contained HTML page from ablate.json.

Arguments:
    facts: ablate.json of the run.
    output: HTML page to write.
"""

from snaketune.core.atomic import write_bytes
from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Read the facts, render the page, write it atomically."""
    arguments = parse_arguments(__doc__, "facts", "output", facts=("output",))
    from snaketune.facts.ablation_facts import ABLATION
    from snaketune.report.ablation.ablate_page import render_ablation

    page = render_ablation(ABLATION.read(arguments.facts), arguments.cfg["run"], arguments.cfg["id"])
    write_bytes(arguments.output, page.encode())


if __name__ == "__main__":
    run(main)
