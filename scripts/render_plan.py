"""Render a plan: one self-contained HTML page from plan.json.

Arguments:
    plan: plan.json of the run.
    output: HTML page to write.
"""

from snaketune.core.atomic import write_bytes
from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Read the plan, render the page, write it atomically."""
    arguments = parse_arguments(__doc__, "plan", "output", facts=("output",))
    from snaketune.facts.plan_facts import PLAN
    from snaketune.report.plan.plan_page import render_plan

    page = render_plan(PLAN.read(arguments.plan), arguments.cfg["run"], arguments.cfg["id"])
    write_bytes(arguments.output, page.encode())


if __name__ == "__main__":
    run(main)
