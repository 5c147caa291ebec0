"""One invocation of the workflow: its start, its work before and after the jobs, and its closing messages."""

import atexit
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.config.strict_yaml import load_yaml
from snaketune.core.code_identity import CodeDigests
from snaketune.core.errors import ConfigError, SnaketuneError
from snaketune.core.locks import Lock
from snaketune.core.shell_settings import refused_setting
from snaketune.merge.gguf_export.gguf import find_converter
from snaketune.terminal.closing import end_of_runs, end_of_target
from snaketune.terminal.plugin import LogHandler
from snaketune.terminal.stage_lines import columns, stages_of
from snaketune.workflow import lifecycle
from snaketune.workflow.cluster_resources import is_for_login_node
from snaketune.workflow.cores import share_out_gpus
from snaketune.workflow.job_environment import (
    machine_notes,
    plugin_path,
    prepare_job_environment,
    restore_plugin_path,
)
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.results import latest_link, run_status
from snaketune.workflow.results.finished import is_finished
from snaketune.workflow.results.provenance_notes import note_proofs, order_before_jobs
from snaketune.workflow.snakemake_internals import Snakemake, lighten
from snaketune.workflow.sources.hub_sources import HubSources
from snaketune.workflow.sources.inputs import ExternalInputs
from snaketune.workflow.sources.remote_sources import RemoteSources
from snaketune.workflow.stage_table import TABLE
from snaketune.workflow.startup import WorkflowFolders
from snaketune.workflow.stopping import end_on_signals
from snaketune.workflow.until import replace_until
from snaketune.workflow.write_checks import check_own_folders

WORK = Path("work")
# Switches of targets in `--config`, which are not part of the configuration and belong to no run.
SWITCHES = ("prune", "compare", "ablate", "verify", "ask")
Returned = TypeVar("Returned")


class Session:
    """State shared by the rules of one invocation.

    Args:
        snakemake: the workflow.

    Attributes:
        job_table: the configured runs.
        places: the folders that the workflow works in.
        switches: the values of `--config` for targets, "no" by default.
    """

    def __init__(self, snakemake: Snakemake):
        lighten()
        atexit.register(snakemake.remove_temporary_folders)  # registered first, so that it runs last
        self.snakemake = snakemake
        self.switches = {name: snakemake.config.pop(name, "no") for name in SWITCHES}
        scripts = snakemake.folder / "scripts"
        self._code = CodeDigests(scripts, WORK / "code.json")
        self._code_of = cache(lambda stage: self._code.of(scripts / f"{stage}.py"))
        self._ended_well, self._lock = False, list[Lock]()
        end_on_signals(snakemake, scripts)
        self._plugin_path = plugin_path()
        left_in_shell = prepare_job_environment(not snakemake.is_main_process)
        self._note([left_in_shell] if left_in_shell and snakemake.is_main_process else [])
        self.or_stop(self._start)
        share_out_gpus(snakemake)
        if max(self.job_table.shard_counts().values()) > 1:
            snakemake.forget_groups()  # a group runs as one job on one node, but shards are meant for several
        snakemake.run_locally(self._local_rules())

    def _start(self) -> None:
        """Resolve the configuration, find external inputs, and repair results before jobs are planned."""
        check_own_folders()
        layer, snakemake = self._configuration(), self.snakemake
        self.job_table = self._make_job_table(layer)
        self.places = WorkflowFolders(self.job_table, WORK, layer.name)
        if snakemake.is_main_process:
            self.places.heal(lifecycle.is_yes(self.switches["verify"]))
            replace_until(snakemake, self.job_table, self.stop)
            order_before_jobs(snakemake, self.places.folders, Path(self.job_table.results), WORK)
        self._note(note for run in self.job_table.runs.values() for note in run.notes)
        if snakemake.is_main_process:
            self._note([*self.job_table.found.notes, *self.places.notes])
            for at_end in (self._code.save, self._name_results, self._tidy_up, self._point_latest, self._show_plans):
                atexit.register(at_end)
        else:
            # Slurm's warning goes to every process of a job. It is meant for the training that this process waits for.
            signal.signal(signal.SIGUSR1, lambda number, frame: None)

    def _configuration(self) -> Layer:
        """Return the layer of `--configfile` or of config/config.yaml; a single file is the whole configuration."""
        path = [Path("config/config.yaml"), *self.snakemake.configfiles][-1]
        name = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
        return Layer(name, load_yaml(path, name))

    def _make_job_table(self, layer: Layer) -> JobTable:
        folder, is_main = self.snakemake.folder, self.snakemake.is_main_process
        if Path.cwd() != folder:
            raise ConfigError(f"the workflow runs in its own folder: cd {folder} and run it there.")
        runs = resolve_runs(layer, dict(self.snakemake.config), folder / "config" / "presets")
        remote = RemoteSources(WORK / "remote_sources.json", is_main)
        found = ExternalInputs(WORK / "digests.json", remote, HubSources(WORK / "hub_sources.json", is_main))
        for run in runs:
            # Digests, for which every file is read completely, are not needed to inspect the beginnings of sources.
            if "inspect" in sys.argv[1:]:
                found.find_sources(run.config)
            else:
                found.look_up(run.config)
        found.save()
        return JobTable(runs, found, self._code_of, lifecycle.shards_before(WORK / "shards.json"))

    def _local_rules(self) -> list[str]:
        """Return the rules that run on the machine where Snakemake was started, also with a cluster."""
        sizes = [self.job_table.found.bytes_of(run.config) for run in self.job_table.runs.values()]
        small = ["rightsize"] if is_for_login_node(sizes) else []
        return [stage.name for stage in TABLE if stage.is_local] + small

    @staticmethod
    def _note(notes: Iterable[str]) -> None:
        for note in notes:
            print(f"Note: {note}", file=sys.stderr, flush=True)

    @staticmethod
    def stop(error: SnaketuneError) -> NoReturn:
        """End the workflow with the message of an error instead of a traceback."""
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)

    def or_stop(self, call: Callable[[], Returned]) -> Returned:
        """Return the result of ``call``, or end the workflow with the message of its error."""
        try:
            return call()
        except SnaketuneError as error:
            self.stop(error)
        except Exception as error:
            if refused := refused_setting(error):
                self.stop(refused)
            raise

    def named(self, switch: str, check: Callable[[Any], Returned]) -> Returned:
        """Return what a switch of `--config` selects, as validated by ``check``."""
        given = self.switches[switch]
        return self.or_stop(lambda: check([] if given == "no" else given))

    def begin(self) -> None:
        """Check the machine and prepare the working folder, once it is certain that jobs will run."""
        self._lock.append(self.or_stop(lambda: lifecycle.lock_or_explain(WORK / "workflow.lock")))
        self.or_stop(self._check_machine)
        self._write_resolved_runs()
        lifecycle.remember_shards(WORK / "shards.json", self.job_table.shard_counts())
        if len(self.job_table.runs) > 1:
            # What ends one run (a refused plan or merge, a diverged training) must not cost the others theirs.
            self.snakemake.keep_going()
        if not self.snakemake.local_exec:
            # The executor is known only now: Snakemake inside a job must find the same plugins as this one.
            restore_plugin_path(self._plugin_path)

    def _check_machine(self) -> None:
        """Refuse settings that this machine cannot run; jobs on other machines check for themselves."""
        self.places.begin()
        if self.snakemake.uses_this_interpreter:
            if "export_gguf" in self.snakemake.targets:
                self._require_converter()
            self._note(machine_notes(list(self.job_table.runs.values())))

    def _require_converter(self) -> None:
        if not self.job_table.gguf_files():
            raise ConfigError(
                "export_gguf: no run merges its adapter into a language model: set merge.enabled to true; a reward"
                " model (train.method: reward) has no GGUF form."
            )
        for run in self.job_table.runs.values():
            if run.config.merge.enabled and run.config.merge.gguf_converter:
                find_converter(run.config.merge.gguf_converter)

    def _write_resolved_runs(self) -> None:
        """Write resolved configurations with origins, for the description of each run; `inspect` has none."""
        if self.snakemake.targets == {"inspect"}:
            return
        table = self.job_table
        for name, run in table.runs.items():
            path = resolved_file(name, table.run_ids[name])
            earlier = table.runs_before(table.run_ids[name], name)
            lifecycle.write_resolved(path, run, table.found.sources(run.config), earlier)

    def note_jobs(self) -> None:
        """Record what each finished job read and wrote, so that copies of results are recognised."""
        note_proofs(self.snakemake.finished_jobs(), Path(self.job_table.results), WORK)

    def end_well(self) -> None:
        """Record the outputs of all jobs and that the workflow succeeded."""
        self.note_jobs()
        self._ended_well = True

    def explain(self, logs: str | list[str]) -> None:
        """Print what to read and do after a failure, following Snakemake's own lines."""
        files = [logs] if isinstance(logs, str) else list(logs)
        sentences = lifecycle.explain_failure(files, own_command(), self.snakemake.local_exec, self._outcomes())
        print(sentences, file=sys.stderr, flush=True)
        self.note_jobs()

    def _outcomes(self) -> dict[str, bool]:
        """Return for each requested run whether it is finished."""
        if not {"train"} >= self.snakemake.targets:
            return {}
        return {run: is_finished(run_status.files_of(self.job_table, run)) for run in self.job_table.runs}

    def _name_results(self) -> None:
        """After success, print what the command has built or found."""
        handler = self.snakemake.log_handler(LogHandler)
        if not self._has_succeeded():
            return
        lines, targets, table = list[str](), self.snakemake.targets or {"train"}, self.job_table
        for target, files in table.target_files().items():
            lines += end_of_target(target, files) if target in targets else []
        if "train" in targets:
            pages = table.comparison_files()
            lines += [line for path in pages for line in end_of_target("compare", [path])]
            reused = stages_of(table.wanted_files(), handler.made) if handler and not handler.is_idle else []
            lines += [columns("reused", ", ".join(reused))] if reused else []
            runs = Path(table.results) / "runs"
            folders = {name: latest_link.latest_folder(runs / name) for name in table.runs}
            lines += end_of_runs(folders, self._command("ask"), "" if pages else self._command("compare"))
        if lines:
            print("\n".join(lines), file=sys.stderr, flush=True)

    def _has_succeeded(self) -> bool:
        """Tell whether all requested results exist, made now or before."""
        handler = self.snakemake.log_handler(LogHandler)
        return self.snakemake.is_run_for_real and (self._ended_well or bool(handler and handler.is_idle))

    def _command(self, target: str) -> str:
        return f"snakemake --cores {self.snakemake.cores or 'all'} {target}"

    def _show_plans(self) -> None:
        """Print the requested plans, with the time at which each run would end if it started now."""
        if self.snakemake.is_run_for_real and "plan" in self.snakemake.targets:
            for name in self.job_table.runs:
                lifecycle.show_plan(Path(self.job_table.run_path(name, "plan.json")), name)

    def _point_latest(self) -> None:
        """Point `latest` to the current configuration, also if nothing had to run."""
        table = self.job_table
        for name, id in table.run_ids.items() if self.snakemake.is_run_for_real else ():
            latest_link.point_latest(Path(table.results) / "runs" / name, id)
            lifecycle.finish_run(run_status.files_of(table, name), Path(table.run_path(name, "")))

    def _tidy_up(self) -> None:
        """Clean up the folders of results and of resumable state, also if nothing had to run."""
        if self._has_succeeded() and not self.snakemake.keeps_temporary_files:
            # Snakemake removes them itself, unless it was killed in between and finds nothing left to do afterwards.
            self.places.drop_shard_files()
        if self.snakemake.is_run_for_real:
            self.places.tidy()


def resolved_file(run: str, id: str) -> Path:
    """Return where the resolved configuration of a run is written when the workflow starts."""
    return WORK / "resolved" / f"{run}-{id}.json"


def own_command(instead: tuple[str, str] = ("", "")) -> str:
    """Return the command that started this workflow, with the word ``instead[0]`` replaced by ``instead[1]``."""
    words = (instead[1] if word == instead[0] else word for word in sys.argv[1:])
    return "snakemake " + " ".join(map(shlex.quote, words))
