"""Configuration, identities and paths that the rules share; no rules here."""

import atexit
import shlex
import signal
import sys
from functools import cache
from pathlib import Path

SCRIPTS = Path(workflow.basedir) / "scripts"
if not (SCRIPTS / "snaketune").is_dir():
    # Another workflow's `module`: our own errors cannot be imported yet.
    print(
        "ConfigError: snaketune works in its own folder, with its own configuration, and cannot be a `module` of"
        f" another workflow: call it in a job there, as in `shell: 'cd {Path(workflow.current_basedir).parent} &&"
        " snakemake --cores {threads} train'`, and take its results by their paths.",
        file=sys.stderr,
    )
    sys.exit(2)
sys.path.insert(0, str(SCRIPTS))

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.config.strict_yaml import load_yaml
from snaketune.core.code_identity import CodeDigests
from snaketune.core.errors import ConfigError, SnaketuneError
from snaketune.merge.gguf_export.gguf import find_converter
from snaketune.publish.hub import check_destination
from snaketune.terminal.closing import end_of_runs, end_of_target
from snaketune.terminal.plugin import LogHandler
from snaketune.terminal.stages import columns, stages_of
from snaketune.workflow import lifecycle
from snaketune.workflow.asking import ask_spec
from snaketune.workflow.cluster_resources import Requests, is_for_login_node
from snaketune.workflow.cores import share_out_gpus, threads_function
from snaketune.workflow.job_environment import (
    machine_notes,
    plugin_path,
    prepare_job_environment,
    require_packages,
    restore_plugin_path,
)
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.preflight import FirstLook
from snaketune.workflow.results import latest_link, run_status
from snaketune.workflow.results.provenance_notes import note_proofs, order_before_jobs
from snaketune.workflow.sources.hub_sources import HubSources
from snaketune.workflow.sources.inputs import Discovery
from snaketune.workflow.sources.remote_sources import RemoteSources
from snaketune.workflow.specs_in_use import specs_in_use
from snaketune.workflow.stage_table import TABLE
from snaketune.workflow.startup import Places, lighten
from snaketune.workflow.stopping import end_on_signals
from snaketune.workflow.until import replace_until

PRESETS = Path(workflow.basedir) / "config" / "presets"
WORK = Path("work")
CODE = CodeDigests(SCRIPTS, WORK / "code.json")
# What `--config` may say beside configuration: switches of targets, which belong to no run.
SWITCHES = {
    name: workflow.config_settings.config.pop(name, "no") for name in ("prune", "compare", "ablate", "verify", "ask")
}


def stop(error):
    """End the workflow with the one sentence of a user's error instead of a traceback."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    sys.exit(error.exit_code)


def named(switch, check):
    """What a switch of `--config` names, as `check` understands it."""
    try:
        return check([] if SWITCHES[switch] == "no" else SWITCHES[switch])
    except SnaketuneError as error:
        stop(error)


def configuration_file():
    """The layer of `--configfile`, else of config/config.yaml; one file is a whole configuration."""
    given = [Path(path) for path in workflow.overwrite_configfiles]
    path = given[-1] if given else Path("config/config.yaml")
    name = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    return Layer(name, load_yaml(path, name))


@cache
def code_of(stage):
    """The digest of a stage's code."""
    return CODE.of(SCRIPTS / f"{stage}.py")


def make_job_table():
    """The runs of this invocation, with sources found and digests of what lies outside the workflow."""
    if Path.cwd() != Path(workflow.basedir):
        raise ConfigError(f"the workflow runs in its own folder: cd {workflow.basedir} and run it there.")
    runs = resolve_runs(configuration_file(), dict(workflow.config_settings.config or {}), PRESETS)
    remote = RemoteSources(WORK / "remote_sources.json", workflow.is_main_process)
    hub = HubSources(WORK / "hub_sources.json", workflow.is_main_process)
    found = Discovery(WORK / "digests.json", remote, hub)
    for run in runs:
        # A look needs no digests, which take all of every file; where another target does, they are made then.
        if "inspect" in sys.argv[1:]:
            found.find_sources(run.config)
        else:
            found.look_up(run.config)
    found.save()
    return JobTable(runs, found, code_of, lifecycle.shards_before(WORK / "shards.json"))


lighten()
end_on_signals(workflow, SCRIPTS)
PLUGIN_PATH = plugin_path()
if (LEFT_IN_SHELL := prepare_job_environment(not workflow.is_main_process)) and workflow.is_main_process:
    print(f"Note: {LEFT_IN_SHELL}", file=sys.stderr)
try:
    JOB_TABLE = make_job_table()
    PLACES = Places(JOB_TABLE, WORK, configuration_file().name)
    if workflow.is_main_process:
        PLACES.heal(lifecycle.is_yes(SWITCHES["verify"]))
        replace_until(workflow, JOB_TABLE, stop)
        order_before_jobs(workflow, PLACES.folders, Path(JOB_TABLE.results), WORK)
except SnaketuneError as error:
    stop(error)
for run in JOB_TABLE.runs.values():
    for note in run.notes:
        print(f"Note: {note}", file=sys.stderr)
for note in [*JOB_TABLE.found.notes, *PLACES.notes] if workflow.is_main_process else ():
    print(f"Note: {note}", file=sys.stderr)
if not workflow.is_main_process:
    # Slurm's warning goes to every process of a job. It is for the training, which this one has to wait for.
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
share_out_gpus(workflow)
if not workflow.local_exec:
    if workflow.group_settings.overwrite_groups and max(JOB_TABLE.shard_counts().values()) > 1:
        # A group is one job on one node; shards are there to be on several.
        workflow.group_settings.overwrite_groups.clear()


# Seconds of work, or work that needs the internet, which the nodes of a cluster often lack.
workflow.localrules(*(stage.name for stage in TABLE if stage.is_local))
if is_for_login_node([JOB_TABLE.found.bytes_of(run.config) for run in JOB_TABLE.runs.values()]):

    workflow.localrules("rightsize")


pathvars:
    results=JOB_TABLE.results,


wildcard_constraints:
    id=r"[A-Za-z0-9._-]+",
    run=r"[A-Za-z0-9._-]+",
    shard=r"\d+-of-\d+",


def spec(stage, job=None):
    """A params function of a stage that several runs may share, or of the jobs that each do one share of it."""
    return lambda wildcards: JOB_TABLE.variant_spec(stage, wildcards.id, job)


def run_spec(stage):
    """A params function of a stage that belongs to one run."""
    return lambda wildcards: JOB_TABLE.run_spec(stage, wildcards.run)


# What jobs ask a cluster for.
REQUESTS = Requests(workflow, JOB_TABLE)
# The `threads` function of a data stage: what trainings beside it leave.
data_threads = threads_function(workflow, JOB_TABLE)


def shards(stage, file):
    """An input function: what the shards of a stage have made; nothing where one job does everything."""
    return lambda wildcards: JOB_TABLE.shard_files(stage, wildcards.id, file)


def plan_spec(wildcards):
    """What a run's plan depends on beside the fact files: its configuration and the prices."""
    return JOB_TABLE.plan_spec(wildcards.run)


def probe_spec(wildcards):
    """What a run's probe trains with."""
    return JOB_TABLE.probe_spec(wildcards.run)


def probed(wildcards):
    """What was measured for the plan, when the configuration asks for it."""
    return JOB_TABLE.probe_file(wildcards.run) or []


def ablate_spec(wildcards):
    """What a run's ablation measures: all factors, or those of `--config ablate=[packing,rank]`."""
    return JOB_TABLE.ablate_spec(wildcards.run, named("ablate", JOB_TABLE.ablated))


def ablate_settings(wildcards, threads):
    """Operational settings of an ablation, not recorded either."""
    return JOB_TABLE.ablate_settings(wildcards.run)


def page_spec(stage):
    """A params function of a page that depends on one fact file alone."""
    return lambda wildcards: JOB_TABLE.spec(stage, {"run": wildcards.run, "id": wildcards.id})


def stage_benchmarks(wildcards, threads):
    """Where Snakemake keeps what the stages before training took, as JSON."""
    return JOB_TABLE.benchmark_files(wildcards.run)


def prepared_model(wildcards):
    """The barrier of the weights: what takes this manifest reruns only when its content changed."""
    return manifest_of_weights(upstream(wildcards)["prepare_model"])


@cache
def weights_passed(id):
    """The manifest of some weights; before their barrier is passed Snakemake's exception, which is not remembered."""
    return checkpoints.prepare_model.get(id=id).output.manifest


@cache
def data_passed(id):
    """The fingerprint of some data; the same before their barrier is passed."""
    return checkpoints.rightsize.get(id=id).output.rightsize


def manifest_of_weights(id):
    """The barrier of some weights, or their plain manifest where they are another run's, behind that run's barriers.

    Snakemake passes a barrier behind others only when its job runs: what waits for one that need not run is not judged
    again when the others are passed.
    """
    if JOB_TABLE.base_manifest(id):
        return JOB_TABLE.path("prepare_model", id, "manifest.json")
    return weights_passed(id)


def planned_model(wildcards):
    """The model that a run is planned with; a plan waits for no training."""
    return manifest_of_weights(JOB_TABLE.planned_model(wildcards.run))


def description_spec(wildcards):
    """What a run's description depends on beside the fact files."""
    return JOB_TABLE.description_spec(wildcards.run, wildcards.id)


def history_settings(wildcards, threads):
    """Where the times of a run's stages are noted; not recorded, because they decide no result."""
    return run_status.history_settings(JOB_TABLE, wildcards.run, WORK / "workflow.lock")


def attempts_spec(wildcards):
    """Where the facts and logs of every run are, also of an unfinished one."""
    command = "snakemake " + " ".join(shlex.quote("train" if word == "report" else word) for word in sys.argv[1:])
    return run_status.attempts_spec(JOB_TABLE, str(WORK), command)


def report_spec(wildcards):
    """The report depends on fact files alone."""
    return JOB_TABLE.spec("render_report", {})


def card_spec(wildcards):
    """A model card depends on fact files alone."""
    return JOB_TABLE.spec("write_model_card", {})


def acceptance_spec(wildcards):
    """Whether a merged model passes depends on the facts of its merge alone."""
    return JOB_TABLE.spec("accept_merge", {})


def prune_spec(wildcards):
    """What `prune` keeps, and whether it removes the rest."""
    given = SWITCHES["prune"] if isinstance(SWITCHES["prune"], list) else [SWITCHES["prune"]]
    others = [str(name) for name in given if not lifecycle.is_yes(name) and not lifecycle.is_no(name)]
    specs = specs_in_use(JOB_TABLE)
    return JOB_TABLE.prune_spec(any(map(lifecycle.is_yes, given)), PLACES.owner(), others, specs)


def publish_spec(wildcards):
    """Which folders `publish` uploads, and where to."""
    return JOB_TABLE.publish_spec()


def published(wildcards):
    """What there is to publish, once it is clear that it can be."""
    try:
        if workflow.is_main_process:
            check_destination(JOB_TABLE.publish)
    except SnaketuneError as error:
        stop(error)
    return DATA_MANIFESTS + MODEL_MANIFESTS + RUN_FILES


@cache
def first_look():
    """What was looked at so far, also by earlier commands."""
    return FirstLook(JOB_TABLE.found, WORK / "first_look.json")


def look_first(check):
    """Look, while jobs are planned, at what they would only meet when they run; `-n` plans them, too."""
    try:
        if workflow.is_main_process:
            check(first_look())
            first_look().save()
    except SnaketuneError as error:
        stop(error)
    return []


def sources_looked_at(wildcards):
    """An input function that adds no file: the beginnings of the sources are read."""
    return look_first(lambda look: look.check_sources(JOB_TABLE.variant("read_records", wildcards.id).config))


def questions_looked_at(wildcards):
    """An input function that adds no file: the evaluation files of the run are read."""
    return look_first(lambda look: look.check_evaluation_files(wildcards.run, JOB_TABLE.runs[wildcards.run].config))


def packages_looked_at(stage, made):
    """An input function that adds no file: what a job that is still to do imports is installed here; `-n` looks, too."""

    def check(wildcards):
        is_here = (
            workflow.is_main_process and workflow.local_exec and not workflow.deployment_settings.deployment_method
        )
        run = wildcards.get("run")
        path = JOB_TABLE.run_path(run, made) if run else JOB_TABLE.path(stage, wildcards.id, made)
        if is_here and not Path(path).exists():
            config = (JOB_TABLE.runs[run] if run else JOB_TABLE.variant(stage, wildcards.id)).config
            try:
                require_packages(run, config, stage)
            except SnaketuneError as error:
                stop(error)
        return []

    return check


def asked(wildcards):
    """Which models are asked, and what: `--config ask="..."`, or a conversation."""
    try:
        return ask_spec(JOB_TABLE, SWITCHES["ask"])
    except SnaketuneError as error:
        stop(error)


def inspect_spec(wildcards):
    """What is looked at: the sources of all runs, each with its tokenizer and template."""
    return JOB_TABLE.inspect_spec()


def compare_spec(wildcards):
    """Which runs stand side by side: all of them, or those of `--config compare=[a,b]`."""
    return JOB_TABLE.compare_spec(named("compare", JOB_TABLE.compared))


def compared_facts(wildcards):
    """The fact files of the runs to compare."""
    made = ("run.json", "adapter.manifest.json", "run_info.json", "metrics.jsonl", "plan.json", "report.html")
    found = ("evaluation.json", "evaluation_info.json", "documents.jsonl", "generations.jsonl")
    return [JOB_TABLE.run_path(run, name) for run in named("compare", JOB_TABLE.compared) for name in made + found]


def settings(wildcards, threads):
    """Operational settings. Snakemake does not record params of functions that take `threads`: never a rerun."""
    return JOB_TABLE.settings(str(WORK), threads)


def loader_settings(wildcards, threads):
    """Operational settings of training, not recorded either."""
    return JOB_TABLE.loader_settings(wildcards.run)


def nodes(wildcards):
    """Nodes that a run trains on."""
    return JOB_TABLE.nodes(wildcards.run)


def gpus_of_one_node(wildcards):
    """GPUs that a run trains on when they are all in one machine."""
    return JOB_TABLE.gpus(wildcards.run) if nodes(wildcards) == 1 else 0


def gpus_of_each_node(wildcards):
    """The same for several: Slurm would otherwise be free to give one node more than another."""
    return f"gpu:{JOB_TABLE.gpus(wildcards.run) // nodes(wildcards)}" if nodes(wildcards) > 1 else None


def cpu_threads(wildcards):
    """Threads that a run's arithmetic uses on a CPU."""
    return JOB_TABLE.runs[wildcards.run].config.train.cpu_threads


def upstream(wildcards):
    """The ids of all stages that the variant or run of the wildcards builds on."""
    return JOB_TABLE.upstream(wildcards.id, wildcards.get("run"))


def made_by(stage, file):
    """An input function: the file of an earlier stage that the job's variant builds on."""
    return lambda wildcards: JOB_TABLE.path(stage, upstream(wildcards)[stage], file)


def rightsized(wildcards):
    """The barrier of the data: what takes this small file reruns only when its content changed."""
    return data_passed(upstream(wildcards)["rightsize"])


def corpus_of_tiny_model(wildcards):
    """The text that the built-in model learns first, when that is the run's own training split."""
    ids = upstream(wildcards)
    return JOB_TABLE.path("split_records", ids["split_records"], "train.jsonl") if "split_records" in ids else []


def earlier(wildcards):
    """The barriers of the runs that this job builds on: when they are passed, it is evaluated again."""
    return barriers_of(JOB_TABLE.runs_before(wildcards.id, wildcards.get("run"), merging=False))


def earlier_of_merge(wildcards):
    """Those, and the barriers of the runs whose adapters this run merges, for jobs that use its merged model."""
    return barriers_of(JOB_TABLE.runs_before(wildcards.id, wildcards.run))


def barriers_of(runs):
    """What the barriers of several runs write: those of their data and those of their weights."""
    ids = JOB_TABLE.barriers(runs)
    sizes = [data_passed(id) for id in ids["rightsize"]]
    models = [id for id in ids["prepare_model"] if not JOB_TABLE.base_manifest(id)]
    return sizes + list(map(manifest_of_weights, models))


def merged_adapters(wildcards):
    """The adapters that this run merges together, when it merges more than its own."""
    return JOB_TABLE.merged_manifests(wildcards.run)


def gguf_spec(wildcards):
    """The export depends on the merged model alone."""
    return JOB_TABLE.spec("convert_to_gguf", {"system": JOB_TABLE.runs[wildcards.run].config.data.system_prompt})


def converter_settings(wildcards, threads):
    """Where llama.cpp's converter is: never a rerun."""
    return JOB_TABLE.converter_settings(wildcards.run)


def base_run(wildcards):
    """The merged model that a base model, or a run, starts from, when it is another run's."""
    return JOB_TABLE.base_manifest(wildcards.id, wildcards.get("run")) or []


def start_run(wildcards):
    """The adapter that training goes on from, when it is another run's."""
    return JOB_TABLE.start_manifest(wildcards.run) or []


def merge_facts(wildcards):
    """What became of the merge, when the run merges."""
    return JOB_TABLE.run_path(wildcards.run, "merge.json") if JOB_TABLE.merges(wildcards.run) else []


def carded_merge(wildcards):
    """The same for the card of the adapter; that of the merged model needs one that passed."""
    is_merged = wildcards.kind == "merged"
    return JOB_TABLE.run_path(wildcards.run, "merged.manifest.json") if is_merged else merge_facts(wildcards)


def resolved_file(wildcards):
    """Where the resolved configuration of a run is written when the workflow starts."""
    return str(WORK / "resolved" / f"{wildcards.run}-{wildcards.id}.json")


def take_workflow_lock():
    """One workflow per folder; the kernel drops the lock when the process dies, so nothing is ever stale."""
    global WORKFLOW_LOCK
    try:
        WORKFLOW_LOCK = lifecycle.lock_or_explain(WORK / "workflow.lock")
    except SnaketuneError as error:
        stop(error)


def check_machine():
    """Refuse what this machine lacks before anything is computed; jobs that run elsewhere look there themselves."""
    try:
        PLACES.begin()
        if workflow.local_exec and not workflow.deployment_settings.deployment_method:
            if workflow.dag_settings is not None and "export_gguf" in workflow.dag_settings.targets:
                require_converter()
            for note in machine_notes(list(JOB_TABLE.runs.values())):
                print(f"Note: {note}", file=sys.stderr, flush=True)
    except SnaketuneError as error:
        stop(error)


def require_converter():
    """Refuse an export that would end for want of a converter, or of a merged model."""
    if not GGUF_FILES:
        raise ConfigError("export_gguf: no run merges its adapter: set merge.enabled to true.")
    for run in JOB_TABLE.runs.values():
        if run.config.merge.enabled:
            if run.config.merge.gguf_converter:
                find_converter(run.config.merge.gguf_converter)


def write_resolved_runs():
    """The resolved configuration with origins, for the description of each run; a look at the sources makes none."""
    if workflow.dag_settings is not None and set(workflow.dag_settings.targets) == {"inspect"}:
        return
    for name, run in JOB_TABLE.runs.items():
        path = WORK / "resolved" / f"{name}-{JOB_TABLE.run_ids[name]}.json"
        earlier_runs = JOB_TABLE.runs_before(JOB_TABLE.run_ids[name], name)
        lifecycle.write_resolved(path, run, JOB_TABLE.found.sources(run.config), earlier_runs)


def remember_shards():
    """The number of shards that stages are made with: another number makes none of them again."""
    lifecycle.remember_shards(WORK / "shards.json", JOB_TABLE.shard_counts())


def pass_on_plugins():
    """Snakemake in a job of a cluster finds its plugins where this one does; who executes is known at the start only."""
    if not workflow.local_exec:
        restore_plugin_path(PLUGIN_PATH)


def go_on_beside_refusals():
    """A merge that is refused ends the runs that start from it, and must not cost its own run's evaluation and report."""
    if JOB_TABLE.has_chains():
        workflow.scheduler.keepgoing = True


def explain(logs):
    """What to read and do after a failure, behind Snakemake's own lines."""
    files = [logs] if isinstance(logs, str) else logs
    print(lifecycle.explain_failure(files, own_command(), workflow.local_exec), file=sys.stderr, flush=True)


def note_what_jobs_made():
    """What each finished job read and wrote, so that a copy of the results is known for what it is."""
    note_proofs(workflow.dag.finished_jobs, Path(JOB_TABLE.results), WORK)


def own_command():
    """The command that this workflow was started with."""
    return "snakemake " + " ".join(map(shlex.quote, sys.argv[1:]))


def end_well():
    """Remember that every job has ended well."""
    global ENDED_WELL
    ENDED_WELL = True


def name_results():
    """What the command has made, or found, when it has ended well; the first lines that a newcomer looks for."""
    handler = next((each for each in workflow.logger_manager.get_log_handlers() if isinstance(each, LogHandler)), None)
    if not is_run_for_real() or not (ENDED_WELL or (handler and handler.is_idle)):
        return
    targets = set(workflow.dag_settings.targets if workflow.dag_settings else ()) or {"train"}
    lines = [
        line for target, files in TARGET_FILES.items() if target in targets for line in end_of_target(target, files)
    ]
    if "train" in targets:
        lines += [line for path in COMPARISON for line in end_of_target("compare", [path])]
        reused = stages_of(WANTED_FILES, handler.made) if handler and not handler.is_idle else []
        lines += [columns("reused", ", ".join(reused))] if reused else []
        lines += end_of_runs(folders_of_runs(), command_of("ask"), "" if COMPARISON else command_of("compare"))
    if lines:
        print("\n".join(lines), file=sys.stderr, flush=True)


def folders_of_runs():
    """The folder of each run, by the name that stays when the configuration changes."""
    return {name: latest_link.latest_folder(Path(JOB_TABLE.results) / "runs" / name) for name in JOB_TABLE.runs}


def command_of(target):
    """The command of another target."""
    return f"snakemake --cores {workflow.cores or 'all'} {target}"


def is_run_for_real():
    """Whether jobs may run, as they do not with `-n`, `--touch` and what only lists."""
    return workflow.executor_plugin is not None and not workflow.dryrun and not workflow.touch


def show_plans():
    """The plans that were asked for, with the time at which each run would end if it began now."""
    asked = workflow.dag_settings is not None and "plan" in workflow.dag_settings.targets
    if asked and is_run_for_real():
        for name in JOB_TABLE.runs:
            lifecycle.show_plan(Path(JOB_TABLE.run_path(name, "plan.json")), name)


def point_latest():
    """`latest` follows the current configuration, also when nothing had to run."""
    if is_run_for_real():
        for name, id in JOB_TABLE.run_ids.items():
            latest_link.point_latest(Path(JOB_TABLE.results) / "runs" / name, id)
            lifecycle.finish_run(run_status.files_of(JOB_TABLE, name), Path(JOB_TABLE.run_path(name, "")))


def tidy_up():
    """The folders of results and of resumable state, also when nothing had to run."""
    if is_run_for_real():
        PLACES.tidy()


DATA_MANIFESTS = JOB_TABLE.data_manifests()
MODEL_MANIFESTS = JOB_TABLE.model_manifests()
PLAN_FILES = JOB_TABLE.plan_files()
ABLATION_FILES = JOB_TABLE.ablation_files()
RUN_FILES = JOB_TABLE.run_files()
GGUF_FILES = JOB_TABLE.gguf_files()
COMPARISON = JOB_TABLE.comparison_files()
WANTED_FILES = DATA_MANIFESTS + MODEL_MANIFESTS + RUN_FILES
# What a target is asked for; the files that a person opens.
TARGET_FILES = {
    "data": [f"{JOB_TABLE.results}/data"],
    "plan": [path for path in PLAN_FILES if path.endswith(".html")],
    "ablate": [path for path in ABLATION_FILES if path.endswith(".html")],
    "compare": [JOB_TABLE.page("compare")],
    "inspect": [JOB_TABLE.page("inspect")],
    "export_gguf": GGUF_FILES,
}
ENDED_WELL = False

if workflow.is_main_process:
    atexit.register(CODE.save)
    atexit.register(name_results)
    atexit.register(tidy_up)
    atexit.register(point_latest)
    atexit.register(show_plans)
