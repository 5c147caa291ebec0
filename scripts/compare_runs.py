"""Compare runs: one self-contained HTML page from the fact files of the runs named in the spec.

Arguments:
    output: HTML page to write.
"""

from pathlib import Path

from snaketune.core.atomic import write_bytes
from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Read the runs, render the page, write it atomically."""
    arguments = parse_arguments(__doc__, "output", facts=("output",))
    from snaketune.report.compare.comparison import load_run
    from snaketune.report.compare.comparison_page import find_runs, render_comparison

    results = Path(arguments.cfg["results"])
    runs = [load_run(Path(folder)) for folder in arguments.cfg["folders"]]
    page = render_comparison(runs, find_runs(results), Path(arguments.output).parent)
    write_bytes(arguments.output, page.encode())


if __name__ == "__main__":
    run(main)
