"""SIGTERM, SIGINT and SIGHUP stop a workflow: its jobs save their progress and exit, then it exits.

Snakemake by itself waits after SIGTERM until every running job has finished, dies at once on SIGHUP, and does not
signal jobs outside the terminal's process group. Its own handler (``JobScheduler.exit_gracefully`` of Snakemake 9)
takes a lock that the interrupted code may hold, and then deadlocks.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import psutil

from snaketune.workflow.command_line import leave
from snaketune.workflow.snakemake_internals import Snakemake, on_graceful_exit, stop_scheduling

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Time for Snakemake to exit when no job is left; nothing of value happens in it.
EXIT_SECONDS = 20.0
LOOK_SECONDS = 0.1


def end_on_signals(snakemake: Snakemake, scripts: Path) -> None:
    """Make this process stop its jobs, and then itself, when it is signalled.

    A signal that is ignored (``nohup``, a shell's background job) stays ignored. A process that runs one job of a
    cluster only waits for it, as Snakemake intends: Slurm signals the job itself, which runs under ``srun`` and is not
    a child of this process.

    Args:
        snakemake: the workflow.
        scripts: folder of the scripts that jobs run.
    """
    if not snakemake.is_main_process:
        on_graceful_exit(lambda scheduler, *arguments: _start(lambda: stop_scheduling(scheduler)))
        return
    ending = _Ending(snakemake, scripts)
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, ending.begin)
    on_graceful_exit(lambda scheduler, *arguments: ending.begin(*arguments))


class _Ending:
    """The shutdown of a workflow, which starts with its first signal."""

    def __init__(self, snakemake: Snakemake, scripts: Path) -> None:
        self._snakemake, self._scripts = snakemake, scripts.absolute()
        self._first: int | None = None

    def begin(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal.

        It interrupts any code of this thread, so work that takes locks is left to another thread.
        """
        # A second signal of any kind but Ctrl-C is ignored: Slurm and Kubernetes send several.
        if self._first is not None:
            if number == self._first == signal.SIGINT:
                self._end_at_once()
            return
        self._first = number
        # No job has been started: nothing has to be saved.
        if not self._snakemake.has_scheduler:
            leave(number)
        _start(self._end)
        if not self._snakemake.local_exec:
            sys.exit(128 + number)  # Snakemake cancels the jobs of a cluster then

    def _end(self) -> None:
        _say(f"{self._name} received: running jobs save their progress and exit; run the same command to resume.")
        if not self._snakemake.local_exec:
            return
        self._snakemake.stop_scheduling()
        told: set[psutil.Process] = set()
        busy = time.monotonic()
        while time.monotonic() - busy < EXIT_SECONDS:
            # In a loop, because a job may be starting at this moment; each one is signalled once.
            for job in (jobs := self._jobs()) - told:
                with contextlib.suppress(psutil.NoSuchProcess):
                    job.terminate()
            told |= jobs
            if jobs:
                busy = time.monotonic()
            time.sleep(LOOK_SECONDS)
        _say("No job is left: stopping.")
        # _exit, because the main thread may be blocked in Snakemake's scheduler.
        os._exit(128 + (self._first or 0))

    def _end_at_once(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        os._exit(128 + signal.SIGINT)

    @property
    def _name(self) -> str:
        return signal.Signals(self._first or 0).name

    def _jobs(self) -> set[psutil.Process]:
        """Return the first process of each script: it signals those that it started itself."""
        processes = psutil.Process().children(recursive=True)
        scripts = {process.pid: process for process in processes if self._is_script(process)}
        return {process for process in scripts.values() if not self._has_script_above(process, scripts)}

    def _is_script(self, process: psutil.Process) -> bool:
        try:
            words, folder = process.cmdline()[1:], process.cwd()
        except psutil.Error:
            return False
        return any(Path(folder, word).parent == self._scripts and word.endswith(".py") for word in words[:2])

    @staticmethod
    def _has_script_above(process: psutil.Process, scripts: dict[int, psutil.Process]) -> bool:
        try:
            return any(parent.pid in scripts for parent in process.parents())
        except psutil.Error:
            return True


def _start(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # the terminal itself may be gone
        print(sentence, file=sys.stderr, flush=True)
