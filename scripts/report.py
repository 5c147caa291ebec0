"""Write a page for every unfinished configured run, and print where the reports of the finished ones are."""

from pathlib import Path
from typing import Any

from snaketune.core.cli import parse_arguments, run
from snaketune.core.errors import SnaketuneError


def main() -> None:
    """Look at each run of the spec; nothing is trained."""
    arguments = parse_arguments(__doc__)
    from snaketune.workflow.results.finished import is_finished

    for found in arguments.cfg["runs"]:
        if is_finished(found["files"]):
            print(f"{found['run']} is finished: {found['folder']}/report.html", flush=True)
        else:
            write_page(found, arguments.cfg["work"], arguments.cfg["command"])


def write_page(found: dict[str, Any], work: str, command: str) -> None:
    """Write the page of one unfinished run into its folder."""
    from snaketune.core.atomic import write_bytes
    from snaketune.report.unfinished.unfinished import gather_attempt, identity_of
    from snaketune.report.unfinished.unfinished_page import headline, render_unfinished
    from snaketune.workflow.results.finished import UNFINISHED

    try:
        identity = identity_of(found)
    except (SnaketuneError, ImportError) as error:
        print(f"{found['run']}: the state of its training is not known here: {error}", flush=True)
        identity = None
    private = Path(work) / "runs" / identity if identity else None
    attempt = gather_attempt(found, private, command)
    if attempt is None:
        print(f"{found['run']}: nothing of it has been tried yet.", flush=True)
        return
    page = Path(found["folder"]) / UNFINISHED
    write_bytes(page, render_unfinished(attempt).encode())
    print(f"{found['run']}: {headline(attempt)}. {page}", flush=True)


if __name__ == "__main__":
    run(main)
