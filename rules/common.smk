"""Configuration, identities and paths that the rules share; no rules here."""

import atexit
import os
import shlex
import sys
from pathlib import Path

SCRIPTS = Path(workflow.basedir) / "scripts"
sys.path.insert(0, str(SCRIPTS))

from snaketune.common.canonical import canonical_text
from snaketune.common.code_identity import code_digest
from snaketune.common.errors import ConfigError, SnaketuneError
from snaketune.config.discovery import Discovery
from snaketune.config.environment import prepare_job_environment
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.config.stages import STAGES, slice_of, stage_id, variants
from snaketune.config.strict_yaml import load_yaml
from snaketune.config.upkeep import (
    drop_damaged_manifests,
    explain_failure,
    lock_or_explain,
    point_latest,
    write_resolved,
)

PRESETS = Path(workflow.basedir) / "config" / "presets"
WORK = Path("work")
# What `--config` may say beside configuration: switches of targets, which belong to no run.
SWITCHES = {name: workflow.config_settings.config.pop(name, "no") for name in ("prune",)}
SPEC_CODE = {}


def stop(error):
    """End the workflow with the one sentence of a user's error instead of a traceback."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    sys.exit(error.exit_code)


def configuration_file():
    """The layer of `--configfile`, or of config/config.yaml in the working directory or beside the Snakefile."""
    given = [Path(path) for path in workflow.overwrite_configfiles]
    if len(given) > 1:
        print(
            "Only the last --configfile is used: a configuration is one file.",
            file=sys.stderr,
        )
    candidates = given[-1:] or [
        Path("config/config.yaml"),
        Path(workflow.basedir) / "config/config.yaml",
    ]
    path = next((path for path in candidates if path.is_file()), candidates[-1])
    name = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    return Layer(name, load_yaml(path, name))


def resolve():
    """The runs of this invocation, with sources found and digests of what lies outside the workflow."""
    runs = resolve_runs(configuration_file(), dict(workflow.config_settings.config or {}), PRESETS)
    discovery = Discovery(WORK / "digests.json")
    for run in runs:
        discovery.look_up(run.config)
    discovery.save()
    return runs, discovery


try:
    if Path.cwd() != Path(workflow.basedir):
        raise ConfigError(f"the workflow runs in its own folder: cd {workflow.basedir} and run it there.")
    RUN_LIST, FOUND = resolve()
except SnaketuneError as error:
    stop(error)

RUNS = {run.name: run for run in RUN_LIST}
RUN_IDS = {run.name: stage_id(run.config, "train_model") for run in RUN_LIST}
VARIANTS = variants(RUN_LIST)
for run in RUN_LIST:
    for note in run.notes:
        print(f"Note: {note}", file=sys.stderr)

RESULTS = RUN_LIST[0].config.paths.results
SCRATCH = RUN_LIST[0].config.paths.scratch

prepare_job_environment()


pathvars:
    results=RESULTS,


wildcard_constraints:
    id=r"[A-Za-z0-9._-]+",
    run=r"[A-Za-z0-9._-]+",


def variant(stage, wildcards):
    """The variant of a stage that a job makes; only configured ones exist."""
    if (stage, wildcards.id) not in VARIANTS:
        raise WorkflowError(f"No configured run uses {wildcards.id}: give the id of a current run, or run `train`.")
    return VARIANTS[stage, wildcards.id]


def code_of(stage):
    """The digest of a stage's code, computed once per invocation."""
    if stage not in SPEC_CODE:
        SPEC_CODE[stage] = code_digest(SCRIPTS / f"{stage}.py", SCRIPTS)
    return SPEC_CODE[stage]


def spec_text(stage, cfg):
    """The one param of a rule: what decides its result, as canonical JSON that its script also reads."""
    return canonical_text({"stage": stage, "code": code_of(stage), "cfg": cfg})


def spec(stage):
    """A params function of a stage that several runs may share."""

    def of_wildcards(wildcards):
        found = variant(stage, wildcards)
        return spec_text(stage, {**found.cfg, **FOUND.outside(stage, found.config)})

    return of_wildcards


def run_spec(stage):
    """A params function of a stage that belongs to one run."""

    def of_wildcards(wildcards):
        return spec_text(stage, slice_of(RUNS[wildcards.run].config, stage))

    return of_wildcards


def description_spec(wildcards):
    """What a run's description depends on beside the fact files: its whole configuration, without origins."""
    values = {stage: slice_of(RUNS[wildcards.run].config, stage) for stage in STAGES}
    return spec_text(
        "describe_run",
        {
            "run": wildcards.run,
            "id": wildcards.id,
            "stages": values,
            "code": stage_codes(),
        },
    )


def resolved_file(wildcards):
    """Where the resolved configuration of a run is written when the workflow starts."""
    return str(WORK / "resolved" / f"{wildcards.run}-{wildcards.id}.json")


def report_spec(wildcards):
    """The report depends on fact files alone."""
    return spec_text("render_report", {})


def prune_spec(wildcards):
    """What `prune` keeps: every variant of the configured runs."""
    kept = [f"{stage}/{id}" for stage, id in VARIANTS if stage in STAGES]
    runs = [f"{name}/{id}" for name, id in RUN_IDS.items()]
    removes = SWITCHES["prune"] in ("yes", "true", True)
    return spec_text(
        "prune",
        {
            "results": RESULTS,
            "variants": sorted(kept),
            "runs": sorted(runs),
            "remove": removes,
        },
    )


def stage_codes():
    """The code digest of every stage."""
    return {stage: code_of(stage) for stage in STAGES}


def settings(wildcards, threads):
    """Operational settings. Snakemake does not record params of functions that take `threads`: never a rerun."""
    return canonical_text({"scratch": SCRATCH, "threads": threads, "work": str(WORK)})


def loader_settings(wildcards, threads):
    """Operational settings of training: how rows are loaded and how often progress is saved."""
    train = RUNS[wildcards.run].config.train
    names = ("save_steps", "save_total_limit")
    loader = (
        "dataloader_num_workers",
        "dataloader_prefetch_factor",
        "dataloader_pin_memory",
    )
    return canonical_text({name: getattr(train, name) for name in (*names, *loader)})


def cpu_threads(wildcards):
    """Threads that a run's arithmetic uses on a CPU."""
    return RUNS[wildcards.run].config.train.cpu_threads


def made_by(stage, file):
    """An input function: the file of an earlier stage that the job's variant builds on."""

    def of_wildcards(wildcards):
        return upstream_path(stage, file, wildcards)

    return of_wildcards


def upstream_path(stage, file, wildcards):
    """The path of an earlier stage's file for the variant or run that the wildcards name."""
    ids = upstream_ids(wildcards)
    folder = "models" if stage == "prepare_model" else f"data/{stage}"
    return f"{RESULTS}/{folder}/{ids[stage]}/{file}"


def upstream_ids(wildcards):
    """The ids of all stages that the variant or run of the wildcards builds on."""
    if hasattr(wildcards, "run"):
        return VARIANTS["train_model", RUN_IDS[wildcards.run]].upstream
    return next(variant.upstream for (stage, id), variant in VARIANTS.items() if id == wildcards.id)


def rightsized(wildcards):
    """The one barrier: everything after it takes this small file and reruns only when its content changed."""
    return checkpoints.rightsize.get(id=upstream_ids(wildcards)["rightsize"]).output.rightsize


def corpus_of_tiny_model(wildcards):
    """The text that the built-in model learns first, when that is the run's own training split."""
    upstream = VARIANTS["prepare_model", wildcards.id].upstream
    return (
        f"{RESULTS}/data/split_records/{upstream['split_records']}/train.jsonl" if "split_records" in upstream else []
    )


def merged_manifest(wildcards):
    """The merged model's manifest, when the run merges."""
    wanted = RUNS[wildcards.run].config.merge.enabled
    return f"{RESULTS}/runs/{wildcards.run}/{wildcards.id}/merged.manifest.json" if wanted else []


def manifests_of(stages):
    """The manifests of all variants of the given stages."""
    folders = {"prepare_model": "models", "rightsize": "data/rightsize"}
    names = {"rightsize": "rightsize.json"}
    return [
        f"{RESULTS}/{folders.get(stage, f'data/{stage}')}/{id}/{names.get(stage, 'manifest.json')}"
        for stage, id in VARIANTS
        if stage in stages
    ]


DATA_MANIFESTS = manifests_of(
    (
        "stage_sources",
        "read_records",
        "dedupe_records",
        "split_records",
        "tokenize_records",
        "rightsize",
        "pack_rows",
    )
)
MODEL_MANIFESTS = manifests_of(("prepare_model",))
RUN_FILES = [
    f"{RESULTS}/runs/{name}/{id}/{file}"
    for name, id in RUN_IDS.items()
    for file in ("adapter.manifest.json", "evaluation.json", "run.json", "report.html")
] + [
    f"{RESULTS}/runs/{name}/{id}/merged.manifest.json"
    for name, id in RUN_IDS.items()
    if RUNS[name].config.merge.enabled
]


def take_workflow_lock():
    """One workflow per folder; the kernel drops the lock when the process dies, so nothing is ever stale."""
    global WORKFLOW_LOCK
    try:
        WORKFLOW_LOCK = lock_or_explain(WORK / "workflow.lock")
    except SnaketuneError as error:
        stop(error)


def write_resolved_runs():
    """The resolved configuration with origins, for the description of each run."""
    for name, run in RUNS.items():
        write_resolved(
            WORK / "resolved" / f"{name}-{RUN_IDS[name]}.json",
            run,
            FOUND.sources(run.config),
        )


def explain(logs):
    """What to read and do after a failure."""
    command = "snakemake " + " ".join(map(shlex.quote, sys.argv[1:]))
    print(explain_failure([logs] if isinstance(logs, str) else logs, command), file=sys.stderr, flush=True)


def name_reports():
    """Where the pages of the runs are."""
    for name in RUNS:
        print(f"Report: {RESULTS}/runs/{name}/latest/report.html", file=sys.stderr, flush=True)


def point_latest_at_exit():
    """`latest` follows the current configuration, also when nothing had to run."""
    if workflow.executor_plugin is not None and not workflow.dryrun and not workflow.touch:
        for name, id in RUN_IDS.items():
            point_latest(Path(RESULTS) / "runs" / name, id)


if workflow.is_main_process:
    drop_damaged_manifests(
        [path for path in DATA_MANIFESTS + MODEL_MANIFESTS + RUN_FILES if path.endswith("manifest.json")],
        WORK / "digests.json",
    )
    atexit.register(point_latest_at_exit)
