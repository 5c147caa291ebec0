"""Everything that depends on the internals of Snakemake 9; a test checks that no other module touches them.

Each function states what Snakemake has no public interface for. After an update of Snakemake, review this file.
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
    """Skip work of Snakemake that cannot change the outcome, see the functions below."""
    _leave_out_pandas()
    _remember_signatures()
    _remember_environments()
    _remember_producers()


def _leave_out_pandas() -> None:
    """Avoid the import of pandas (a quarter of a second), which only serves to test whether a param is a table.

    Params here are texts, which Snakemake serialises the same way without it.
    """
    PersistenceBase._serialize_param = property(lambda persistence: persistence._serialize_param_builtin)


def _remember_signatures() -> None:
    """Inspect the signature of each function of a rule once, instead of twice per job of the DAG."""
    # Both names: ``rules`` imported the function by name, so replacing it in ``common`` alone would change nothing
    # there.
    common.get_function_params = rules.get_function_params = functools.cache(common.get_function_params)


def _remember_environments() -> None:
    """Compute the params of a job only if it stays in the DAG.

    Snakemake determines the environment of every job, also of jobs that a passed checkpoint is about to replace, and
    computes their params for it. It caches an environment without wildcards per rule, so the rule's first job suffices.
    """
    # A property of a class can only be replaced as a whole; its getter is kept for the first job of each rule.
    by_params = Job.conda_env_spec.fget

    def spec(job: Job) -> Any:
        known = job.rule._expanded_conda_env
        return by_params(job) if known is rules._NOT_CACHED else known

    Job.conda_env_spec = property(spec)


def _remember_producers() -> None:
    """Match each file with the outputs of all rules once: the rules of an index never change."""
    match = OutputIndex.match_producers

    def match_producers(index: OutputIndex, targetfile: str) -> set[Any]:
        # Kept on the index itself: Snakemake makes a new one for other rules, so no answer outlives its rules.
        found: dict[str, set[Any]] = index.__dict__.setdefault("_found", {})
        file = str(targetfile)
        if file not in found:
            found[file] = match(index, targetfile)
        # A copy: without the cache each caller gets a set of its own, which it may change.
        return set(found[file])

    OutputIndex.match_producers = match_producers


def operational(value: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a params function whose value never causes a rerun.

    Snakemake does not record params of functions that take ``output``, which follows from the wildcards. Nor does it
    record those that take ``threads``, but for these it computes all resources of a job.
    """

    # The name ``output`` is what counts: Snakemake passes arguments by name and looks for it in the signature.
    def unrecorded(wildcards: Any, output: Any) -> Any:
        return value(wildcards)

    return unrecorded


def ancient(path: Any) -> Any:
    """Mark a path returned by an input function so that the modification time of the file causes no rerun."""
    return io.ancient(path)


def on_graceful_exit(handler: Callable[..., None]) -> None:
    """Call ``handler(scheduler, signal, frame)`` in place of the method that the scheduler registers for SIGTERM."""
    JobScheduler.exit_gracefully = lambda scheduler, *arguments: handler(scheduler, *arguments)


def stop_scheduling(scheduler: Any) -> None:
    """Start no further job and end when the running ones have finished; never call it in a signal handler."""
    # The two steps of the scheduler's own handler, but outside of a signal: the lock may be held by interrupted code.
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
    """Snakemake's workflow object, as far as this project uses it.

    Args:
        workflow: the object of this name in a Snakefile. It gets the command line's targets only after the Snakefile
            was read.
    """

    def __init__(self, workflow: Any):
        self._workflow = workflow

    @property
    def folder(self) -> Path:
        """The folder of the Snakefile."""
        return Path(self._workflow.basedir)

    @property
    def is_main_process(self) -> bool:
        """Whether this process was started by the user and does not run a job of a cluster."""
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
        """Whether jobs run here with the packages of this interpreter and not in a deployed environment."""
        return self.local_exec and not self._workflow.deployment_settings.deployment_method

    @property
    def is_run_for_real(self) -> bool:
        """Whether jobs may run: not with `-n`, `--touch` or options that only list something."""
        workflow = self._workflow
        return workflow.executor_plugin is not None and not workflow.dryrun and not workflow.touch

    @property
    def configfiles(self) -> list[Path]:
        """The files of `--configfile`."""
        return [Path(path) for path in self._workflow.overwrite_configfiles]

    @property
    def config(self) -> dict[str, Any]:
        """The values of `--config`; removed entries stay removed."""
        found = self._workflow.config_settings.config
        return found if isinstance(found, dict) else dict(found or {})

    @property
    def targets(self) -> set[str]:
        """The targets of the command line, once it has been read; empty for the default target."""
        settings = self._workflow.dag_settings
        return set(settings.targets) if settings is not None else set()

    @property
    def cores(self) -> int | None:
        """The value of `--cores`."""
        return self._workflow.cores or None

    @property
    def cores_of_resources(self) -> int | None:
        """The same value, as available while jobs are planned."""
        return self._workflow.resource_settings.cores or None

    @property
    def gpus(self) -> int | None:
        """The maximum number of concurrent jobs that need a GPU; None if unlimited."""
        found = self._workflow.global_resources.get("gpu")
        return found.value if found else None

    def limit_gpus(self, count: Callable[[], int]) -> None:
        """Limit the jobs that need a GPU to ``count()`` unless the command line did; a cluster counts its own."""
        if not self.local_exec:
            self._workflow.global_resources["gpu"] = None
        # A job of a cluster is a Snakemake of its own: a limit there would count the GPUs of its node.
        elif self.is_main_process and "gpu" not in self._workflow.global_resources:
            self._workflow.global_resources["gpu"] = count()

    def run_locally(self, names: Iterable[str]) -> None:
        """Make rules local, as the statement `localrules` does, which takes literal names only."""
        self._workflow.localrules(*names)

    def forget_groups(self) -> None:
        """Ignore `--groups`: a group runs as one job on one node."""
        if not self.local_exec and self._workflow.group_settings.overwrite_groups:
            self._workflow.group_settings.overwrite_groups.clear()

    def before_dag(self, action: Callable[[], None]) -> None:
        """Call ``action`` after all rules were read, just before the DAG of jobs is built."""
        # No hook exists between reading the rules and building the DAG: `onstart` runs after it, when reruns are
        # decided.
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
        """Build all of ``targets`` instead of the targets of the command line."""
        # Both at once: `--until` with a checkpoint drops the jobs after it (see ``until``).
        self._workflow.dag_settings.targets = frozenset(targets)
        self._workflow.dag_settings.until = frozenset()

    def param_of(self, rule: str, name: str) -> Any:
        """Return a param of a rule, unevaluated if it is a function; None if there is no such rule or param."""
        if not self._workflow.is_rule(rule):
            return None
        return dict(self._workflow.get_rule(rule).params.items()).get(name)

    def keep_going(self) -> None:
        """Continue with independent jobs when one fails."""
        self._workflow.scheduler.keepgoing = True

    @property
    def has_scheduler(self) -> bool:
        """Whether jobs may have been started."""
        return self._workflow._scheduler is not None

    def stop_scheduling(self) -> None:
        """Start no further job, and end when the running ones have finished."""
        stop_scheduling(self._workflow._scheduler)

    def finished_jobs(self) -> Iterable[Any]:
        """Return Snakemake's job objects of the finished jobs."""
        found: Iterable[Any] = self._workflow.dag.finished_jobs
        return found

    def remove_temporary_folders(self) -> None:
        """Remove the temporary folders that Snakemake leaves to the interpreter's exit, which warns about each."""
        # Left alone, each prints a ResourceWarning after the last line of the workflow.
        caches = self._workflow.sourcecache.runtime_cache
        for folder in filter(None, (self._workflow._snakemake_tmp_dir, caches)):
            folder.cleanup()

    def log_handler(self, kind: type[Any]) -> Any:
        """Return the log handler of a class; None if it is not in use."""
        handlers = self._workflow.logger_manager.get_log_handlers()
        return next((each for each in handlers if isinstance(each, kind)), None)
