"""The workflow through a real Slurm: a warning of the time limit requeues training, and scancel loses none of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import slurm

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))
from project import REAL_PROGRAMS, Project

REASON = slurm.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=f"no Slurm can be started here: {REASON}")]
CONFIG = """
data: {sources: ["builtin:quickstart"]}
model:
  name_or_path: tiny
  tiny: {corpus: quickstart, vocab_size: 400, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1,
         num_attention_heads: 2, max_position_embeddings: 256, pretrain_steps: 0}
tokens: {max_length: 256}
adapter: {r: 4}
train: {max_steps: 500, per_device_train_batch_size: 2, gradient_accumulation_steps: 1, learning_rate: 1e-3,
        logging_steps: 5, save_steps: 100, cpu_threads: 1}
runs: {one: {}}
"""
# The profile as it stands; this Slurm has no accounts and no accounting.
COMMAND = ["--profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.running(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"), CONFIG, REAL_PROGRAMS)


@pytest.fixture
def start(cluster, project):
    """A function that gives the command."""
    started = []

    def give_command(target: str) -> subprocess.Popen:
        command = [str(Path(sys.executable).with_name("snakemake")), *COMMAND, target]
        with open(project.folder / "output.log", "w") as log:
            started.append(subprocess.Popen(command, cwd=project.folder, stdout=log, stderr=subprocess.STDOUT))
        return started[-1]

    yield give_command
    for process in started:
        process.kill()


def step_of(project) -> int:
    lines = [
        line for path in project.folder.glob("work/runs/*/metrics.jsonl") for line in path.read_text().splitlines()
    ]
    return max((json.loads(line)["step"] for line in lines), default=0)


def wait_for_step(project, step) -> None:
    slurm.wait_until(lambda: step_of(project) >= step, f"step {step}")


def training_job(state: str) -> dict[str, str]:
    """What Slurm knows of the training's job once it is in a state."""

    def find():
        jobs = [job for job in all_jobs() if "train_model" in job.get("Comment", "") and job["JobState"] == state]
        return jobs[-1] if jobs else None

    return slurm.wait_until(find, f"job of train_model that is {state}")


def all_jobs() -> list[dict[str, str]]:
    lines = slurm.call("scontrol", "show", "jobs", "--oneliner").splitlines()
    return [dict(pair.split("=", 1) for pair in line.split() if "=" in pair) for line in lines]


def output(project) -> str:
    return (project.folder / "output.log").read_text()[-3000:]


def log_of_training(project) -> str:
    (log,) = project.folder.glob("logs/train_model/*.log")
    return log.read_text()


def facts(project, name):
    (path,) = {path.resolve() for path in project.folder.glob(f"results/runs/one/*/{name}")}  # latest is a link
    return json.loads(path.read_text())


def undisturbed(folder) -> str:
    """The digest of the adapter that a run on this machine ends in."""
    project = Project(folder, CONFIG)
    project.run("train", "-n")
    # Not --until, which Snakemake forgets where a workflow has checkpoints.
    project.run(re.search(r"results/runs/one/[\w.-]+/adapter\.manifest\.json", project.output)[0])
    return digest(project)


def digest(project) -> str:
    return facts(project, "adapter.manifest.json")["files"]["adapter/adapter_model.safetensors"]["digest"]


def test_training_survives_its_time_limit_and_scancel_and_ends_in_the_adapter_of_an_undisturbed_run(
    start, project, tmp_path
):
    workflow = start("train")
    wait_for_step(project, 50)
    job = training_job("RUNNING")
    assert (job["TresPerJob"], job["NumNodes"], job["Requeue"], job["TimeLimit"]) == (
        "gres:gpu:1",
        "1",
        "1",
        "1-00:00:00",
    )

    # What --signal makes Slurm send before the limit; the job comes back by itself.
    slurm.call("scancel", "--signal=USR1", job["JobId"])
    training_job("PENDING")
    assert "SIGUSR1 received" in log_of_training(project)
    wait_for_step(project, step_of(project) + 50)
    job = training_job("RUNNING")
    assert job["Restarts"] == "1"

    slurm.call("scancel", job["JobId"])
    assert workflow.wait(timeout=400) != 0
    assert "SIGTERM received" in log_of_training(project)
    stopped_at = step_of(project)

    assert start("train").wait(timeout=1500) == 0, output(project)
    assert facts(project, "run_info.json")["resumed_from_step"] >= stopped_at
    assert digest(project) == undisturbed(tmp_path)


def test_the_whole_workflow_runs_through_the_profile(start, project):
    # After the test above there is nothing left to do; alone it does all of it.
    assert start("train").wait(timeout=1500) == 0, output(project)
    assert (project.latest() / "report.html").is_file()
    sent = " ".join(job["Comment"] for job in all_jobs())
    assert "rule_records_dedupe_records_read_records_split_records_stage_sources" in sent, "one job"
    assert all(rule in sent for rule in ("tokenize_records", "pack_rows", "merge_adapter", "evaluate_model"))
    assert not any(rule in sent for rule in ("prepare_model", "plan_run", "render_report"))
