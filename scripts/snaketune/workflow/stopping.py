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
from typing import Any

import psutil
from snakemake.scheduling.job_scheduler import JobScheduler

from snaketune.workflow.command_line import leave

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Time for Snakemake to exit when no job is left; nothing of value happens in it.
GRACE_SECONDS = 20.0
LOOK_SECONDS = 0.1


def end_on_signals(workflow: Any, scripts: Path) -> None:
    """Make this process stop its jobs, and then itself, when it is signalled.

    A signal that is ignored (``nohup``, a shell's background job) stays ignored. A process that runs one job of a
    cluster only waits for it, as Snakemake intends: Slurm signals the job itself, which runs under ``srun`` and is not
    a child of this process.

    Args:
        workflow: Snakemake's object.
        scripts: folder of the scripts that jobs run.
    """
    if not workflow.is_main_process:
        JobScheduler.exit_gracefully = lambda scheduler, *arguments: _start(_finish_running, scheduler)
        return
    ending = _Ending(workflow, scripts)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, ending.begin)
    # The scheduler registers this method for SIGTERM when it is created.
    JobScheduler.exit_gracefully = lambda scheduler, *arguments: ending.begin(*arguments)


class _Ending:
    """The shutdown of a workflow, which starts with its first signal."""

    def __init__(self, workflow: Any, scripts: Path) -> None:
        self._workflow, self._scripts = workflow, scripts.absolute()
        self._first: int | None = None

    def begin(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal.

        It interrupts any code of this thread, so work that takes locks is left to another thread.
        """
        if self._first is not None:
            if number == self._first == signal.SIGINT:
                self._end_at_once()
            return
        self._first = number
        scheduler = self._workflow._scheduler
        if scheduler is None:
            leave(number)
        _start(self._end, scheduler)
        if not self._workflow.local_exec:
            sys.exit(128 + number)  # Snakemake cancels the jobs of a cluster then

    def _end(self, scheduler: Any) -> None:
        _say(f"{self._name} received: running jobs save their progress and exit; run the same command to resume.")
        if not self._workflow.local_exec:
            return
        _finish_running(scheduler)
        told: set[psutil.Process] = set()
        busy = time.monotonic()
        while time.monotonic() - busy < GRACE_SECONDS:
            for job in (jobs := self._jobs()) - told:
                with contextlib.suppress(psutil.NoSuchProcess):
                    job.terminate()
            told |= jobs
            if jobs:
                busy = time.monotonic()
            time.sleep(LOOK_SECONDS)
        _say("No job is left: stopping.")
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


def _start(work: Callable[[Any], None], scheduler: Any) -> None:
    threading.Thread(target=work, args=(scheduler,), daemon=True).start()


def _finish_running(scheduler: Any) -> None:
    """Let Snakemake start no further job and exit when the running ones have; never inside a signal handler."""
    with scheduler._lock:
        scheduler._user_kill = "graceful"
    scheduler._open_jobs.release()


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # the terminal itself may be gone
        print(sentence, file=sys.stderr, flush=True)
