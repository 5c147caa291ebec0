"""Everything that depends on the internals of Snakemake 9; no other module touches them, which a test checks.

Each function says what Snakemake lacks a public way for. After an update of Snakemake this is the one file to look at.
"""

import functools
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from snakemake import common, io, rules
from snakemake.jobs import Job
from snakemake.output_index import OutputIndex
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler


def lighten() -> None:
    """Keep Snakemake from doing what cannot change the outcome: see the functions below."""
    _leave_out_pandas()
    _remember_signatures()
    _remember_environments()
    _remember_producers()


def _leave_out_pandas() -> None:
    """Keep pandas, a quarter of a second, from being imported to ask of each param whether it is a table.

    Params here are texts, which Snakemake writes in the same way without it.
    """
    PersistenceBase._serialize_param = property(lambda persistence: persistence._serialize_param_builtin)


def _remember_signatures() -> None:
    """Look at the parameters of each function of a rule once, not twice for every job that is drawn."""
    common.get_function_params = rules.get_function_params = functools.cache(common.get_function_params)


def _remember_environments() -> None:
    """Compute the params of a job only if it stays in the DAG.

    Snakemake asks every job for its environment, also those that a passed checkpoint is about to replace, and computes
    their params for it. It remembers an environment without wildcards for the rule, so that its first job is enough.
    """
    by_params = Job.conda_env_spec.fget

    def spec(job: Job) -> Any:
        known = job.rule._expanded_conda_env
        return by_params(job) if known is rules._NOT_CACHED else known

    Job.conda_env_spec = property(spec)


def _remember_producers() -> None:
    """Match each file with the outputs of all rules once: an index holds the same rules from beginning to end."""
    match = OutputIndex.match_producers

    def match_producers(index: OutputIndex, targetfile: str) -> set[Any]:
        found: dict[str, set[Any]] = index.__dict__.setdefault("_found", {})
        file = str(targetfile)
        if file not in found:
            found[file] = match(index, targetfile)
        return set(found[file])

    OutputIndex.match_producers = match_producers


def operational(value: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a params function whose value never causes a rerun.

    Snakemake does not record params of functions that take ``output``, which the wildcards decide. It does not record
    those that take ``threads`` either, but computes all resources of a job for them.
    """

    def unrecorded(wildcards: Any, output: Any) -> Any:
        return value(wildcards)

    return unrecorded


def ancient(path: Any) -> Any:
    """Mark a path that an input function returns: the time of this file causes no rerun."""
    return io.ancient(path)


def on_graceful_exit(handler: Callable[..., None]) -> None:
    """Call ``handler(scheduler, signal, frame)`` in place of the method that the scheduler registers for SIGTERM."""
    JobScheduler.exit_gracefully = lambda scheduler, *arguments: handler(scheduler, *arguments)


def stop_scheduling(scheduler: Any) -> None:
    """Let Snakemake start no further job and end when the running ones have; never call it in a signal handler."""
    with scheduler._lock:
        scheduler._user_kill = "graceful"
    scheduler._open_jobs.release()


def own_handler(settings: Any) -> logging.Handler:
    """Return the log handler that Snakemake would have used without a plugin."""
    from snakemake.logging import ColorizingTextHandler, DefaultFormatter

    stream = sys.stdout if settings.stdout else sys.stderr
    handler: logging.Handler = ColorizingTextHandler(nocolor=settings.nocolor, stream=stream)
    handler.setFormatter(DefaultFormatter(settings.quiet, settings.show_failed_logs))
    return handler


class Snakemake:
    """Snakemake's object of a workflow, as far as this project uses it.

    Args:
        workflow: the object that a Snakefile finds under this name. The command line's words reach it only after the
            Snakefile was read.
    """

    def __init__(self, workflow: Any):
        self._workflow = workflow

    @property
    def folder(self) -> Path:
        """The folder of the Snakefile."""
        return Path(self._workflow.basedir)

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that a person started, not one that runs a job of a cluster."""
        return bool(self._workflow.is_main_process)

    @property
    def keeps_temporary_files(self) -> bool:
        """Whether ``--notemp`` was given."""
        return bool(self._workflow.storage_settings.notemp)

    @property
    def local_exec(self) -> bool:
        """Whether jobs run on this machine."""
        return bool(self._workflow.local_exec)

    @property
    def uses_this_interpreter(self) -> bool:
        """Whether jobs run here with the packages of this interpreter, not in an environment that is deployed."""
        return self.local_exec and not self._workflow.deployment_settings.deployment_method

    @property
    def is_run_for_real(self) -> bool:
        """Whether jobs may run, as they do not with `-n`, `--touch` and what only lists."""
        workflow = self._workflow
        return workflow.executor_plugin is not None and not workflow.dryrun and not workflow.touch

    @property
    def configfiles(self) -> list[Path]:
        """The files of `--configfile`."""
        return [Path(path) for path in self._workflow.overwrite_configfiles]

    @property
    def config(self) -> dict[str, Any]:
        """What `--config` says; what is taken out of it stays out."""
        found = self._workflow.config_settings.config
        return found if isinstance(found, dict) else dict(found or {})

    @property
    def targets(self) -> set[str]:
        """The targets of the command line, once it was read; empty for the default one."""
        settings = self._workflow.dag_settings
        return set(settings.targets) if settings is not None else set()

    @property
    def cores(self) -> int | None:
        """What `--cores` gives."""
        return self._workflow.cores or None

    @property
    def cores_of_resources(self) -> int | None:
        """The same, as it is known while jobs are planned."""
        return self._workflow.resource_settings.cores or None

    @property
    def gpus(self) -> int | None:
        """How many jobs that need a GPU may run at a time; None where that is not limited."""
        found = self._workflow.global_resources.get("gpu")
        return found.value if found else None

    def limit_gpus(self, count: Callable[[], int]) -> None:
        """Limit the jobs that need a GPU to ``count()`` unless the command line did; a cluster counts its own."""
        if not self.local_exec:
            self._workflow.global_resources["gpu"] = None
        elif self.is_main_process and "gpu" not in self._workflow.global_resources:
            self._workflow.global_resources["gpu"] = count()

    def run_locally(self, names: Iterable[str]) -> None:
        """Make rules local ones, as the statement `localrules` does with names that are written out."""
        self._workflow.localrules(*names)

    def forget_groups(self) -> None:
        """Drop what `--groups` says: a group is one job on one node."""
        if not self.local_exec and self._workflow.group_settings.overwrite_groups:
            self._workflow.group_settings.overwrite_groups.clear()

    def before_dag(self, action: Callable[[], None]) -> None:
        """Call ``action`` when all rules were read, just before the DAG of jobs is built."""
        prepare = self._workflow._prepare_dag

        @functools.wraps(prepare)
        def prepare_dag(*arguments: Any, **settings: Any) -> Any:
            action()
            return prepare(*arguments, **settings)

        self._workflow._prepare_dag = prepare_dag

    @property
    def until(self) -> list[str]:
        """The rules of `--until`, sorted."""
        settings = self._workflow.dag_settings
        return sorted(settings.until) if settings and settings.until else []

    def replace_until(self, targets: Iterable[str]) -> None:
        """Make ``targets`` in place of what the command line asked for, all of it."""
        self._workflow.dag_settings.targets = frozenset(targets)
        self._workflow.dag_settings.until = frozenset()

    def param_of(self, rule: str, name: str) -> Any:
        """Return a param of a rule, a function as such; None where there is no such rule or param."""
        if not self._workflow.is_rule(rule):
            return None
        return dict(self._workflow.get_rule(rule).params.items()).get(name)

    def keep_going(self) -> None:
        """Go on with independent jobs when one fails."""
        self._workflow.scheduler.keepgoing = True

    @property
    def has_scheduler(self) -> bool:
        """Whether jobs may have been started."""
        return self._workflow._scheduler is not None

    def stop_scheduling(self) -> None:
        """Start no further job, and end when the running ones have."""
        stop_scheduling(self._workflow._scheduler)

    def finished_jobs(self) -> Iterable[Any]:
        """Return Snakemake's objects of the jobs that have finished."""
        found: Iterable[Any] = self._workflow.dag.finished_jobs
        return found

    def remove_temporary_folders(self) -> None:
        """Remove the folders that Snakemake leaves to Python's exit, which warns of each."""
        caches = self._workflow.sourcecache.runtime_cache
        for folder in filter(None, (self._workflow._snakemake_tmp_dir, caches)):
            folder.cleanup()

    def log_handler(self, kind: type[Any]) -> Any:
        """Return the log handler of a class; None where it is not in use."""
        handlers = self._workflow.logger_manager.get_log_handlers()
        return next((each for each in handlers if isinstance(each, kind)), None)
