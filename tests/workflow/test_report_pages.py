"""Pages for every end of a run: watched, killed, looked at, finished."""

import json
import subprocess
import sys

import preloaded
import pytest
from project import CONFIG, Project, kill_all_in, processes_in, record

pytestmark = pytest.mark.story


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    longer = CONFIG.replace("max_steps: 8", "max_steps: 200").replace("runs:", "merge: {enabled: false}\nruns:")
    project = Project(tmp_path_factory.mktemp("pages"), longer)
    project.raw.write_text("".join(record(number) + "\n" for number in range(200)))
    return project


def folder_of(project):
    (folder,) = (path for path in project.folder.glob("results/runs/one/*") if not path.is_symlink())
    return folder


def test_a_training_under_way_can_be_watched_and_killed_it_gets_a_page(project, tmp_path):
    # Who watches knows a training by its command, which a program that starts with its imports does not have.
    process = project.start(preloaded.programs_but(tmp_path / "programs", "train_model.py"))
    try:
        project.wait_for_step(20, seconds=300)
        for working in processes_in(project.folder):
            working.suspend()  # or it would be finished before it was looked at
        watch = [sys.executable, "scripts/watch_runs.py", "--once"]
        shown = subprocess.run(watch, cwd=project.folder, capture_output=True, text=True, timeout=120).stdout
    finally:
        kill_all_in(project.folder)
        process.wait()
    assert shown.startswith("one ")
    assert "/200 (" in shown
    assert "tokens/s" in shown
    assert project.run("report") == {"report"}
    page = (folder_of(project) / "unfinished.html").read_text()
    assert "Training stopped at step " in page
    assert " of 200" in page
    assert 'id="chart-loss"' in page
    assert "snakemake --cores 2 train" in page
    assert not list(project.folder.glob("results/runs/*/*/adapter"))


def test_when_the_run_is_finished_its_page_of_failure_is_gone(project):
    project.run()
    assert "Resuming from step" in project.output
    folder = folder_of(project)
    assert not (folder / "unfinished.html").exists()
    rows = json.loads((folder / "facts.json").read_text())
    assert {row["name"]: row["value"] for row in rows}["training.steps"] == 200
    history = json.loads((folder / "history.json").read_text())
    reused = {stage["stage"]: stage["reused"] for stage in history["stages"]}
    assert reused["read_records"] is True
    assert reused["train_model"] is False


def test_a_finished_run_keeps_its_report_and_nothing_is_made_anew(project):
    before = (folder_of(project) / "report.html").stat().st_mtime_ns
    assert project.run("report") == {"report"}
    assert "one is finished: results/runs/one/" in project.output
    assert (folder_of(project) / "report.html").stat().st_mtime_ns == before
    assert not (folder_of(project) / "unfinished.html").exists()
