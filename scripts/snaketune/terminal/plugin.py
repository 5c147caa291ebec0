"""A logger plugin for Snakemake's public interface, with one line per stage instead of Snakemake's own output.

Snakemake finds plugins among the installed packages. This one is part of the workflow and not installed, so
``profiles/default`` registers it (:func:`register`) before Snakemake parses its command line. ``--verbose``,
``--printshellcmds``, ``--debug-dag`` and dry runs show Snakemake's own output; its log in ``.snakemake/log`` always
contains it.
"""

import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from snaketune.terminal.stage_lines import LABELS, columns, outcome
from snaketune.workflow.stage_table import STAGE_BY_NAME

PLUGIN_NAME = "snaketune"
NOTHING_TO_DO = "Nothing to be done"
# A stage that is still running after this time prints that it has started, even if it is usually short.
QUIET_SECONDS = 120.0
# Beginnings of Snakemake's messages about its own operation rather than the user's results.
CHATTER = (
    "Building DAG of jobs",
    "Assuming unrestricted shared filesystem usage",
    "host: ",
    "Using shell: ",
    "Provided ",
    "Rules claiming more threads",
    "Conda environments: ignored",
    "Singularity containers: ignored",
    "Group jobs: inactive",
    "Select jobs to execute",
    "Execute ",
    "DAG of jobs will be updated",
    "Updating checkpoint dependencies",
    "Storing output in storage",
    "Complete log(s): ",
    "Elapsed time: ",
    "Shutting down, this might take some time",
    "Will exit after finishing currently running jobs",
    "Removing output files of failed job",
    "Processed ",
)
# Errors that Snakemake adds after every failed job: the job has already printed a better message.
AFTER_A_FAILURE = (
    "At least one job did not complete successfully",
    "CalledProcessError in file ",
    "Exiting because a job execution failed",
)
_SHOWN_WORDS = ("verbose", "debug_dag", "printshellcmds", "dryrun")


def register() -> None:
    """Make the plugin known to Snakemake in this process."""
    LoggerPluginRegistry().register_plugin(f"snakemake_logger_plugin_{PLUGIN_NAME}", sys.modules[__name__])


@dataclass(frozen=True, slots=True)
class _Job:
    rule: str
    run: str
    outputs: tuple[str, ...]
    started: float
    label: str


class LogHandler(LogHandlerBase):
    """Prints which stages start, their results, and failures.

    Attributes:
        made: the outputs of finished jobs.
        is_idle: whether Snakemake had nothing to do.
    """

    def __post_init__(self) -> None:
        self.made: set[str] = set()
        self.is_idle = False
        self._jobs: dict[int, _Job] = {}
        self._timers: dict[int, threading.Timer] = {}
        self._own = _snakemakes_own(self.common_settings)
        self._write: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)

    writes_to_stream, writes_to_file, has_filter, has_formatter, needs_rulegraph = True, False, False, True, False

    def emit(self, record: logging.LogRecord) -> None:
        """Handle one of Snakemake's log records."""
        event = getattr(record, "event", None)
        line = self._line(event, record)
        if self._own:
            self._own.emit(record)
        elif line:
            self._write(line)

    def close(self) -> None:
        """Cancel the timers of unfinished jobs."""
        for timer in self._timers.values():
            timer.cancel()
        super().close()

    def _line(self, event: Any, record: Any) -> str:
        match event:
            case LogEvent.JOB_INFO:
                return self._begin(record)
            case LogEvent.JOB_FINISHED:
                return self._finish(record.job_id, record.created)
            case LogEvent.JOB_ERROR:
                return self._fail(record)
            case LogEvent.GROUP_ERROR:
                rules = ", ".join(sorted({_label(info["rule_name"]) for info in record.job_error_info}))
                return f"{rules} failed"
            case LogEvent.ERROR | None:
                return self._message(record)
        return ""

    def _message(self, record: logging.LogRecord) -> str:
        text = str(record.getMessage() if record.msg is not None else "")
        self.is_idle |= text.startswith(NOTHING_TO_DO)
        is_shown = text and not any(words in text for words in AFTER_A_FAILURE)
        if record.levelno >= logging.WARNING:
            return text if is_shown else ""
        return text if is_shown and record.levelno >= logging.INFO and not text.startswith(CHATTER) else ""

    def _begin(self, record: Any) -> str:
        label = LABELS.get(record.rule_name, "")
        run = (record.wildcards or {}).get("run", "")
        job = _Job(record.rule_name, run, tuple(map(str, record.output)), record.created, label)
        self._jobs[record.jobid] = job
        if record.rule_name in STAGE_BY_NAME and STAGE_BY_NAME[record.rule_name].is_long:
            return columns(label, "started", run)
        if label and not self._own:
            self._start_timer(record.jobid, job)
        return ""

    def _start_timer(self, number: int, job: _Job) -> None:
        line = columns(job.label, "started", job.run)
        timer = self._timers[number] = threading.Timer(QUIET_SECONDS, self._write, (line,))
        timer.daemon = True
        timer.start()

    def _end(self, number: int) -> _Job | None:
        if timer := self._timers.pop(number, None):
            timer.cancel()
        return self._jobs.pop(number, None)

    def _finish(self, number: int, when: float) -> str:
        job = self._end(number)
        if job is None:
            return ""
        self.made.update(job.outputs)
        if not job.label:
            return ""
        took = f"{max(when - job.started, 0):,.1f} s"
        found = outcome(job.rule, job.outputs)
        return columns(job.label, f"{found}, {took}" if found else took, job.run)

    def _fail(self, record: Any) -> str:
        job = self._end(record.jobid)
        took = f" after {record.created - job.started:,.1f} s" if job else ""
        return columns(_label(record.rule_name), f"failed{took}", job.run if job else "")


def _label(rule: str) -> str:
    return LABELS.get(rule) or rule


def _snakemakes_own(settings: Any) -> logging.Handler | None:
    """Return Snakemake's own handler if an option asks for its output."""
    if not any(getattr(settings, name, False) for name in _SHOWN_WORDS):
        return None
    from snaketune.workflow.snakemake_internals import own_handler

    return own_handler(settings)
