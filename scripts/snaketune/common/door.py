"""The frame of every script: arguments in, one call, one sentence on an error, no orphan left behind."""

import argparse
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any

import orjson

from snaketune.common.errors import SnaketuneError

PARENT_VARIABLE = "SNAKETUNE_PARENT_PID"


def parse_arguments(description: str, *names: str, optional: tuple[str, ...] = ()) -> argparse.Namespace:
    """Parse ``--spec JSON`` and one ``--name VALUE`` per name; ``cfg`` is the configuration slice of the spec."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--spec", required=True, help="canonical JSON with stage, code and cfg, as the rule passes it")
    for name in names:
        parser.add_argument(f"--{name}", required=True)
    for name in optional:
        parser.add_argument(f"--{name}")
    arguments = parser.parse_args()
    arguments.cfg = orjson.loads(arguments.spec)["cfg"]
    return arguments


def run(main: Callable[[], Any]) -> None:
    """Run a script's ``main``; turn a user's error into one sentence and an exit status."""
    stop_with_parent(os.environ.get(PARENT_VARIABLE))
    try:
        main()
    except SnaketuneError as error:
        sys.exit(_report(f"{type(error).__name__}: {error}", error.exit_code))
    except OSError as error:
        sys.exit(_report(_describe_os_error(error), 1))
    except MemoryError:
        sys.exit(_report("MemoryError: this machine has too little memory for the step; lower the batch size.", 1))


def _report(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr, flush=True)
    return code


def _describe_os_error(error: OSError) -> str:
    place = f" at {error.filename}" if error.filename else ""
    return f"{type(error).__name__}: {error.strerror or error}{place}; free space or fix permissions, then run again."


def stop_with_parent(pid: str | None) -> None:
    """End this process when the workflow that started it is gone.

    Snakemake's shell outlives a ``kill -9`` of Snakemake, so a training would go on as an orphan and the next
    run would meet it. Everything a stage publishes is renamed into place, so ending at any instant is safe.
    """
    if not pid:
        return
    try:
        descriptor = os.pidfd_open(int(pid))
    except (OSError, ValueError, AttributeError):
        return
    threading.Thread(target=_wait_and_exit, args=(descriptor,), daemon=True).start()


def _wait_and_exit(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    print("The workflow that started this job is gone: stopping.", file=sys.stderr, flush=True)
    os._exit(75)
