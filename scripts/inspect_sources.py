"""Inspect sources: what each is read as, and three records as the model will see them, before anything is trained.

Arguments:
    output: HTML page to write.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Inspect the beginning of every source of each group of runs, print the result and write the page."""
    arguments = parse_arguments(__doc__, "output")
    from snaketune.core.atomic import write_bytes
    from snaketune.inspection import inspect_group
    from snaketune.report.inspection_page import render_inspection, told

    groups = []
    for group in arguments.cfg["groups"]:
        with TemporaryDirectory() as folder:
            groups.append(inspect_group(group, Path(folder)))
        print(*told(groups[-1]), sep="\n", flush=True)
    write_bytes(arguments.output, render_inspection(groups).encode())
    print(f"Page: {arguments.output}", flush=True)
    if any(source["error"] for group in groups for source in group["sources"]):
        sys.exit(3)


if __name__ == "__main__":
    run(main)
