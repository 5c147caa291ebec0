"""Watch running trainings: step, loss, throughput and expected end of each, until Ctrl-C."""

import argparse
import contextlib
import sys
from pathlib import Path

from snaketune.core.cli import leave_closed_pipe, reader_left
from snaketune.report.unfinished.watching import changes_of

CLEAR = "\x1b[H\x1b[J"


def main() -> None:
    """Show the metrics of running trainings, updated at each interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder of resumable state")
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between updates")
    parser.add_argument("--once", action="store_true", help="print the state once and exit")
    arguments = parser.parse_args()
    for text in changes_of(arguments.work, lambda: arguments.once or reader_left(arguments.interval)):
        print(CLEAR + text if sys.stdout.isatty() else text, flush=True)


if __name__ == "__main__":
    try:
        with contextlib.suppress(KeyboardInterrupt):
            main()
    except BrokenPipeError:
        leave_closed_pipe()
