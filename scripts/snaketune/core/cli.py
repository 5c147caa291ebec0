"""The frame of every script: arguments in, one call, quiet libraries, a sentence on an error, no orphan left behind."""

import argparse
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import orjson

from snaketune.core import environment
from snaketune.core.disk_space import free_bytes, full_places, is_full_disk, reason_of, usual_places
from snaketune.core.errors import DiskFullError, SnaketuneError
from snaketune.core.long_arguments import in_full
from snaketune.core.shell_settings import refused_setting

LIBRARIES = (
    *("accelerate", "bitsandbytes", "datasets", "evaluate", "fastokens", "huggingface_hub", "lm_eval", "peft"),
    *("safetensors", "tokenizers", "torch", "transformers", "trl"),
)
# Read by the libraries at import: their loggers then start at this level.
VERBOSITY = {
    "ACCELERATE_LOG_LEVEL": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

PARENT_VARIABLE = "SNAKETUNE_PARENT"
# Small files that the script writes; recorded when it succeeds.
_facts: list[Path] = []
# What an orphan does before it exits: training saves its progress. It must return by itself.
on_orphaned: Callable[[], None] | None = None


def parse_arguments(
    description: str,
    *names: str,
    optional: tuple[str, ...] = (),
    several: tuple[str, ...] = (),
    texts: tuple[str, ...] = (),
    json: tuple[str, ...] = (),
    facts: tuple[str, ...] = (),
) -> argparse.Namespace:
    """Parse ``--spec JSON`` and a flag for each name; most are paths.

    ``cfg`` is the configuration slice of the spec and ``code`` the digest of the stage's code.

    Args:
        description: the script's docstring. Under its heading ``Arguments:`` it has a line for each flag, its help.
        names: required flags, paths but for ``settings``: JSON of operational settings, which never change a result.
        optional: flags that may be left out or empty, which gives None.
        several: flags with any number of paths.
        texts: required flags that are no paths.
        json: required flags that are JSON.
        facts: those flags that name small files written by the script: the workflow notices later changes to them.
    """
    text, _, listed = description.partition("\n\nArguments:\n")
    helps = {
        name.strip(): sentence.strip()
        for flags, _, sentence in (line.partition(": ") for line in listed.splitlines() if line.strip())
        for name in flags.split(",")
    }
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--spec", required=True, help="canonical JSON with stage, code and cfg, as the rule passes it")
    for name in names:
        kind, shown = (orjson.loads, "JSON") if name == "settings" else (Path, "PATH")
        parser.add_argument(f"--{name}", required=True, type=kind, metavar=shown, help=helps.get(name))
    for name in optional:
        parser.add_argument(f"--{name}", nargs="?", type=_path_or_none, metavar="PATH", help=helps.get(name))
    for name in several:
        parser.add_argument(f"--{name}", nargs="*", default=[], type=Path, metavar="PATH", help=helps.get(name))
    for name in texts:
        parser.add_argument(f"--{name}", required=True, metavar="TEXT", help=helps.get(name))
    for name in json:
        parser.add_argument(f"--{name}", required=True, type=orjson.loads, metavar="JSON", help=helps.get(name))
    arguments = parser.parse_args()
    spec = orjson.loads(in_full(arguments.spec))
    arguments.cfg, arguments.code = spec["cfg"], spec.get("code", "")
    _expect_facts([getattr(arguments, name) for name in facts if getattr(arguments, name)])
    return arguments


def _path_or_none(text: str) -> Path | None:
    return Path(text) if text else None


def run(main: Callable[[], Any]) -> None:
    """Run a script's ``main``; turn a user's error into one sentence and an exit status.

    Environment variables of other tools are removed first, before anything heavy is imported.
    """
    environment.clean()
    interruption = _Interruption()
    stop_with_parent(os.environ.get(PARENT_VARIABLE))
    hush_libraries()
    try:
        _main_and_record(main)
    except BaseException as error:
        if interruption.came:
            sys.exit(_report("Interrupted: run the same command to continue from what is finished.", 130))
        sys.exit(_explain(error))


class _Interruption:
    """Ctrl-C, which can hit an import of C code and then surfaces as some other error.

    Attributes:
        came: whether it was pressed while this handler, rather than that of a training, was installed.
    """

    def __init__(self) -> None:
        self.came = False
        # Where SIGINT is ignored (a shell's background job), it stays ignored.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> NoReturn:
        self.came = True
        sys.unraisablehook = lambda unraisable: None
        raise KeyboardInterrupt


def _explain(error: BaseException) -> int:
    """Print the sentence of an error that a user can act on and return the exit status; others are raised again."""
    match error:
        case SnaketuneError():
            return _report(f"{type(error).__name__}: {error}", error.exit_code)
        case KeyboardInterrupt():
            return _report("Interrupted: run the same command to continue from what is finished.", 130)
        case BrokenPipeError() if reader_left(0):
            return leave_closed_pipe()
        case Exception() if refused := refused_setting(error):
            return _report(f"ConfigError: {refused}", refused.exit_code)
        case Exception() if sentence := described(error):
            return _report(sentence, 1 if isinstance(error, OSError | MemoryError) else DiskFullError.exit_code)
    raise error


def leave_closed_pipe() -> int:
    """Return the exit status of a program whose reader closed the pipe, as ``| head -1`` does, and write nothing more.

    Python would flush once more at exit, and complain.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    return 128 + signal.SIGPIPE


def reader_left(seconds: float) -> bool:
    """Wait for ``seconds``, or until the reader of standard output has closed the pipe; return whether it has."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(seconds * 1000))


def described(error: Exception) -> str | None:
    """Return a sentence for an error of the machine, with the name of the error in front; None for any other."""
    if isinstance(error, OSError):
        return _describe_os_error(error)
    if isinstance(error, MemoryError):
        return "MemoryError: this machine has too little memory for the step; lower the batch size."
    return _describe_full_disk(error)


def _expect_facts(paths: list[Path]) -> None:
    """In a job of a workflow: drop the records of the files that this job is about to overwrite."""
    _facts[:] = paths if PARENT_VARIABLE in os.environ else []
    if _facts:
        from snaketune.core.outputs import forget_outputs

        forget_outputs(_facts)


def _main_and_record(main: Callable[[], Any]) -> None:
    """Run ``main``; in a job of a workflow, record the fact files that it wrote."""
    main()
    if _facts:
        from snaketune.core.outputs import record_outputs

        record_outputs(_facts)


def _report(sentence: str, code: int) -> int:
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(sentence, file=sys.stderr, flush=True)
    return code


def _describe_full_disk(error: Exception) -> str | None:
    """Return a sentence if an unexplained error comes from a full disk: which disk, as far as is known."""
    places = usual_places()
    if not is_full_disk(error, places):
        return None
    path = getattr(error, "filename", None) or ", ".join(full_places(places)) or f"one of {', '.join(places)}"
    return (
        f"DiskFullError: {path}: {reason_of(error)} ({free_bytes('work'):,} bytes are free in work): free space,"
        " then run the same command again; what is finished is kept."
    )


def _describe_os_error(error: OSError) -> str:
    if not error.filename and (sentence := _describe_full_disk(error)):
        return sentence
    place = f" at {error.filename}" if error.filename else ""
    return f"{type(error).__name__}: {error.strerror or error}{place}; free space or fix permissions, then run again."


def stop_with_parent(parent: str | None) -> None:
    """End this process when the workflow that started it is gone.

    Snakemake's shell outlives a ``kill -9`` of Snakemake, so a training would go on as an orphan and collide with the
    next run. Everything a stage publishes is renamed into place, so exiting at any instant is safe.

    Args:
        parent: ``host:pid`` of the workflow; another host (a cluster node's) is not watched.
    """
    host, _, pid = (parent or "").rpartition(":")
    if host != socket.gethostname() or not hasattr(os, "pidfd_open"):
        return
    try:
        descriptor = os.pidfd_open(int(pid))
    except ProcessLookupError:
        _exit_as_orphan()
    threading.Thread(target=_wait_and_exit, args=(descriptor,), daemon=True).start()


def _wait_and_exit(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    if on_orphaned:
        on_orphaned()
    _exit_as_orphan()


def _exit_as_orphan() -> NoReturn:
    with contextlib.suppress(OSError):
        print("The workflow that started this job is gone: stopping.", file=sys.stderr, flush=True)
    os._exit(75)


def hush_libraries() -> None:
    """Keep warnings of other libraries off the screen, here and in the processes that this one starts.

    They are about the libraries' own calls, which the user cannot change ("will result in indexing errors" of texts
    that are cut right after), and hide the lines that are about the user's data. Exceptions and logged errors stay.
    """
    os.environ.update(VERBOSITY)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})(\.|$)")
