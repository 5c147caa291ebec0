"""Render the report: one self-contained HTML page per run, and the same facts as a table, from what the stages left.

Arguments:
    facts: JSON object: the path of each fact file by its name.
    table: facts.json to write.
    output: HTML page to write.
"""

from snaketune.core.atomic import write_bytes
from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Read the facts, render page and table, write both atomically."""
    arguments = parse_arguments(__doc__, "output", "table", json=("facts",), facts=("output", "table"))
    from snaketune.report.report_facts import load_facts
    from snaketune.report.run.page import render_run
    from snaketune.report.run.table import fact_table, table_bytes

    facts = load_facts(arguments.facts)
    write_bytes(arguments.table, table_bytes(fact_table(facts)))
    write_bytes(arguments.output, render_run(facts).encode())


if __name__ == "__main__":
    run(main)
