"""Exactly which jobs run, with real Snakemake on a real tiny model. The tests build on each other, in order."""

import json
import os
import re
import shutil

import psutil
import pytest
from project import Project, kill_all_in, record, stable_content

pytestmark = pytest.mark.story

PREPARATION = {"stage_sources", "read_records", "dedupe_records", "split_records"}
DATA = PREPARATION | {"prepare_tokenizer", "tokenize_records", "rightsize", "pack_rows"}
AFTER_TRAINING = {
    "merge_adapter",
    "evaluate_model",
    "describe_run",
    "render_report",
    "write_model_card",
    "accept_merge",
}
TRAINING = {"plan_run", "train_model"} | AFTER_TRAINING


# The job of the weights, made to wait for the last data stage: a wait the other way round would never end.
WEIGHTS = "    output = Path(arguments.output)\n"
WAITING = """    import time
    deadline = time.monotonic() + 300
    while not list(Path("results/data/pack_rows").glob("*/manifest.json")):
        if time.monotonic() > deadline:
            raise SystemExit("the data wait for the weights")
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    project.raw.write_text("".join(record(number) + "\n" for number in range(3000)))
    assert project.raw.stat().st_size > 1_000_000
    return project


def test_a_look_at_the_sources_makes_its_page_and_nothing_else(project):
    assert project.run("inspect") == {"inspect"}
    lines = project.output
    assert "train.jsonl as prompt_completion" in lines
    assert "The beginning of 1," in lines
    assert "Record 3 as the model sees it" in lines
    assert "【The number 0 follows -1." in lines
    assert "Page: results/inspect.html" in lines
    page = (project.folder / "results" / "inspect.html").read_text()
    assert page.count('class="example"') == 3
    assert [path.name for path in project.folder.glob("results/*")] == ["inspect.html"]
    assert not (project.folder / "work" / "digests.json").exists()


def test_data_alone_need_no_weights(project):
    assert project.run("data") == DATA
    assert not (project.folder / "results" / "models").exists()
    shutil.rmtree(project.folder / "results" / "data" / "pack_rows")


def test_a_plan_comes_before_any_training_and_is_shown(project):
    project.edit("scripts/prepare_model.py", WEIGHTS, WAITING + WEIGHTS)
    assert project.run("plan") == {"pack_rows", "prepare_model", "plan_run", "render_plan"}
    project.edit("scripts/prepare_model.py", WAITING, "")
    assert not list(project.folder.glob("results/runs/*/*/adapter"))
    assert project.screen.count("Plan of one:") == 1
    assert project.screen.splitlines()[-1].startswith("plan ")  # names the page
    (path,) = project.folder.glob("results/runs/one/*/plan.json")
    plan = json.loads(path.read_text())
    assert plan["steps"] == 8
    assert plan["train_hours"] is None
    assert plan["about"]["train_hours"]["origin"] == "unknown"
    assert project.run("plan") == {"prepare_model"}  # its code is another one, and what it made is the same
    assert "Plan of one:" in project.output
    assert project.run("plan") == set()
    assert "Plan of one:" in project.output


def test_a_run_then_does_the_rest(project):
    assert project.run() == TRAINING - {"plan_run"}
    assert (project.latest() / "report.html").is_file()
    for kind in ("adapter", "merged"):
        card = (project.latest() / f"{kind}_card.md").read_bytes()
        assert (project.latest() / kind / "README.md").read_bytes() == card


def test_the_same_command_again_does_nothing(project):
    assert project.run() == set()
    assert "Nothing to be done" in project.output


def test_changed_weights_train_again_and_tokenise_nothing(project):
    before = project.adapter()
    project.edit("scripts/snaketune/model/tiny/tiny_model.py", 'torch.manual_seed(cfg["seed"])', "torch.manual_seed(7)")
    assert project.run() == {"prepare_model"} | TRAINING - {"plan_run"}
    assert project.adapter() != before
    assert project.run() == set()


def test_a_card_that_is_gone_or_changed_comes_back_without_a_job(project):
    (project.latest() / "merged" / "README.md").unlink()
    (project.latest() / "adapter" / "README.md").write_text("another")
    assert project.run() == set()
    for kind in ("adapter", "merged"):
        card = (project.latest() / f"{kind}_card.md").read_bytes()
        assert (project.latest() / kind / "README.md").read_bytes() == card


def test_touching_the_input_retrains_nothing(project):
    os.utime(project.raw)
    assert project.run() <= {"stage_sources"}


def test_touching_every_file_of_the_workflow_reruns_nothing(project):
    for path in project.folder.rglob("*"):
        if path.is_file() and not {"results", ".snakemake", "work"} & set(path.relative_to(project.folder).parts):
            os.utime(path)
    assert project.run() == set()


def test_a_comment_in_a_library_module_reruns_nothing(project):
    project.edit("scripts/snaketune/data/rows/packing.py", "import numpy as np", "import numpy as np  # a comment")
    assert project.run() == set()


def test_an_operational_setting_reruns_nothing(project):
    project.edit("config/config.yaml", "save_steps: 2", "save_steps: 4")
    assert project.run() == set()


def test_a_changed_price_plans_again_and_retrains_nothing(project):
    project.edit("config/config.yaml", "runs: {one: {}}", "plan: {price_per_gpu_hour: 2}\nruns: {one: {}}")
    assert project.run() == {"plan_run", "render_report"}
    plan = json.loads((project.latest() / "plan.json").read_text())
    assert plan["device"]["price_per_gpu_hour"] == 2
    assert project.run() == set()


def test_a_price_in_the_catalogue_plans_again_and_retrains_nothing(project):
    project.edit("config/hardware.yaml", "price: 1.29", "price: 1.30")
    assert project.run() == {"plan_run", "render_report"}


def test_a_run_over_its_disk_does_not_start(project):
    project.edit("config/config.yaml", "save_steps: 4", "save_steps: 4, save_total_limit: 100000000")
    project.edit("config/config.yaml", "learning_rate: 1e-3", "learning_rate: 3e-3")
    assert project.run("plan") == {"plan_run", "render_plan"}
    assert "DOES NOT START: paths.results: " in project.output
    assert project.run(expect=1) == {"plan_run"}, "the disk may have been freed since"
    assert "PlanError: paths.results: " in project.output
    assert "Traceback" not in project.output
    project.edit("config/config.yaml", "save_steps: 4, save_total_limit: 100000000", "save_steps: 4")
    project.edit("config/config.yaml", "learning_rate: 3e-3", "learning_rate: 1e-3")
    assert project.run() == set()


def test_dedupe_code_with_the_same_outcome_retrains_nothing(project):
    project.edit("scripts/dedupe_records.py", "def main() -> None:", "CHANGED = 1\n\n\ndef main() -> None:")
    repeated = {"dedupe_records", "split_records", "tokenize_records", "rightsize"}
    told = {"describe_run", "render_report", "write_model_card"}  # run.json names the code of every stage
    assert project.run() == repeated | told
    assert project.run() == set()


def test_a_changed_learning_rate_trains_and_nothing_before(project):
    project.before = project.adapter()
    project.edit("config/config.yaml", "learning_rate: 1e-3", "learning_rate: 2e-3")
    assert project.run() == TRAINING
    assert project.adapter() != project.before


def test_going_back_finds_everything_in_place(project):
    changed = project.latest().resolve()
    project.edit("config/config.yaml", "learning_rate: 2e-3", "learning_rate: 1e-3")
    assert project.run() == set()
    assert project.latest().resolve() != changed
    assert project.adapter() == project.before


def test_a_changed_maximum_length_keeps_the_tokens(project):
    project.edit("config/config.yaml", "max_length: 256", "max_length: 240")
    assert project.run() == {"rightsize", "pack_rows"} | TRAINING
    project.edit("config/config.yaml", "max_length: 240", "max_length: 256")
    assert project.run() == set()


def test_an_evaluation_setting_evaluates_only(project):
    project.edit("config/config.yaml", "max_samples: 4", "max_samples: 5")
    # The plan tells what an evaluation takes, and does not keep Snakemake from looking at what comes after it.
    assert project.run() == {"plan_run", "evaluate_model", "describe_run", "render_report", "write_model_card"}


def test_an_upgrade_of_planning_training_and_evaluation_is_done_by_the_one_next_command(project):
    before = project.adapter()
    for script in ("plan_run", "train_model"):
        project.edit(f"scripts/{script}.py", "def main() -> None:", "CHANGED = 1\n\n\ndef main() -> None:")
    project.edit("config/config.yaml", "max_samples: 5", "max_samples: 4")
    assert project.run() == TRAINING
    assert project.adapter() == before
    assert project.run() == set()


def test_a_second_run_shares_the_data_and_the_model(project):
    project.edit("config/config.yaml", "runs: {one: {}}", "runs: {one: {}, two: {adapter: {r: 2}}}")
    assert project.run() == TRAINING
    project.edit("config/config.yaml", "runs: {one: {}, two: {adapter: {r: 2}}}", "runs: {one: {}}")
    assert project.run() == set()


def test_one_changed_record_is_a_change_of_everything_after(project):
    lines = project.raw.read_text().splitlines(keepends=True)
    lines[7] = record(100_007) + "\n"
    project.raw.write_text("".join(lines))
    assert project.run() == DATA - {"prepare_tokenizer"} | TRAINING


def test_new_content_under_an_older_mtime_is_noticed(project):
    lines = project.raw.read_text().splitlines(keepends=True)
    lines[8] = record(100_008) + "\n"
    project.raw.write_text("".join(lines))
    os.utime(project.raw, (1_000_000_000, 1_000_000_000))
    assert project.run() == DATA - {"prepare_tokenizer"} | TRAINING


def test_a_deleted_adapter_is_made_again_equal(project):
    before = project.adapter()
    shutil.rmtree(project.latest() / "adapter")
    assert "train_model" in project.run()
    assert project.adapter() == before


@pytest.mark.parametrize(
    ("file", "stage"),
    [("adapter/adapter_model.safetensors", "train_model"), ("merged/model.safetensors", "merge_adapter")],
)
def test_a_damaged_result_is_noticed_and_made_again(project, file, stage):
    path = project.latest() / file
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert stage in project.run()
    assert "was deleted or changed since it was made: it is rebuilt" in project.output
    assert path.read_bytes() == before


def test_a_rule_in_other_words_trains_nothing_without_the_state_of_its_training(project):
    before = stable_content(project.folder / "results" / "runs")
    project.edit("rules/train.smk", "--work work --adapter", "--work  work --adapter")
    shutil.rmtree(project.folder / "work")
    assert "train_model" in project.run()
    assert "This training was finished before, and its files are intact" in project.output
    assert "To train the same once more, remove them and its state first: rm -r results/runs/one/" in project.output
    assert not list(project.folder.glob("work/runs/*/checkpoint-*"))
    assert stable_content(project.folder / "results" / "runs") == before
    assert project.run() == set()


def copy_without_times(project, folder):
    """What an archive without times leaves of the results, without what Snakemake and the workflow know of them."""
    copy = Project(folder, project.config.read_text(), project.programs)
    for name in ("rules", "scripts", "config"):
        shutil.copytree(project.folder / name, copy.folder / name, dirs_exist_ok=True)
    shutil.copy(project.raw, copy.raw)
    shutil.copytree(project.folder / "results", copy.folder / "results", symlinks=True)
    paths = sorted(path for path in (copy.folder / "results").rglob("*") if not path.is_symlink())
    for number, path in enumerate(paths):  # results come before what they were made from
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    return copy


def test_moved_results_are_results(project, tmp_path):
    copy = copy_without_times(project, tmp_path)
    assert copy.run() == set()
    assert re.search(r"the results of .* have file times out of order", copy.output)
    assert copy.run() == set()
    assert "times out of order" not in copy.output
    damaged = next(copy.folder.glob("results/data/split_records/*/train.jsonl"))
    content = damaged.read_bytes()
    damaged.write_bytes(content.replace(b"4", b"5", 1))
    os.utime(damaged, (1_700_000_000, 1_700_000_000))
    assert "split_records" in copy.run()
    assert damaged.read_bytes() == content
    assert not list(copy.folder.glob("work/runs/*/checkpoint-*")), "something was trained"


def test_a_missing_bookkeeping_folder_retrains_nothing(project):
    shutil.rmtree(project.folder / ".snakemake")
    assert "train_model" not in project.run()


def test_kill_9_of_everything_in_training_then_the_same_command_resumes(project):
    project.edit("config/config.yaml", "max_steps: 8", "max_steps: 60")
    assert project.run() == TRAINING
    undisturbed = project.adapter()
    shutil.rmtree(project.folder / "results" / "runs")
    shutil.rmtree(project.folder / "work" / "runs")
    process = project.start(programs=None)
    project.wait_for_step(20)
    kill_all_in(project.folder)
    process.wait()
    assert project.run() == TRAINING - {"plan_run"}
    assert "Resuming from step" in project.output
    assert project.adapter() == undisturbed


def test_kill_9_of_snakemake_alone_leaves_no_orphan(project):
    undisturbed = project.adapter()
    shutil.rmtree(project.folder / "results" / "runs")
    shutil.rmtree(project.folder / "work" / "runs")
    process = project.start()
    project.wait_for_step(10)
    process.kill()
    process.wait()
    assert project.run() == TRAINING - {"plan_run"}
    assert project.adapter() == undisturbed


def test_a_second_workflow_in_the_folder_is_refused_with_the_pid_of_the_first(project):
    shutil.rmtree(project.folder / "results" / "runs")
    shutil.rmtree(project.folder / "work" / "runs")
    process = project.start(programs=None)
    project.wait_for_step(4)
    project.run(expect=1)
    (first,) = re.findall(r"another workflow \(process (\d+)\) is working in this folder", project.screen)
    assert psutil.Process(int(first)).cwd() == str(project.folder)
    assert "Traceback" not in project.output
    assert process.wait(timeout=120) == 0


def test_unused_variants_are_listed_and_removed_only_on_request(project):
    project.run("prune")
    unused = [line.split()[1] for line in project.output.splitlines() if line.startswith("Unused: ")]
    assert unused
    assert all((project.folder / path).is_dir() for path in unused)
    project.run("prune", "--config", "prune=yes")
    assert not any((project.folder / path).exists() for path in unused)
    assert project.run() == set()
