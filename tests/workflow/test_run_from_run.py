"""Runs that start from runs, with real Snakemake: order, identities, and what reruns. The tests build on each other."""

import json
import re

import pytest
from project import CONFIG, Project

pytestmark = pytest.mark.story

RUNS = """runs:
  first: {}
  merged: {model: {name_or_path: "run:first"}, data: {sources: [data/more.jsonl]}}
  onward: {adapter: {init_from: "run:first"}, train: {learning_rate: 5e-4}}
"""
NAMES = {"first", "merged", "onward"}
MESSAGES = {
    "Training": "train_model",
    "Merging": "merge_adapter",
    "Evaluating": "evaluate_model",
    "Accepting the merge of": "accept_merge",
    "Describing": "describe_run",
    "Rendering the report of": "render_report",
}
TRAINING = set(MESSAGES.values())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    config = CONFIG.replace("runs: {one: {}}\n", RUNS).replace("test_size: 0.01", "test_size: 0.1")
    project = Project(tmp_path_factory.mktemp("project"), config)
    for path, numbers in ((project.raw, range(150)), (project.folder / "data" / "more.jsonl", range(500, 650))):
        path.write_text("".join(record(number) + "\n" for number in numbers))
    return project


def record(number: int) -> str:
    """A line that fits the row."""
    return json.dumps({"prompt": f"What follows {number - 1}?", "completion": f"The number {number} follows it. " * 3})


def started(output: str) -> dict[str, set[str]]:
    """The rules that ran for each run."""
    found: dict[str, set[str]] = {}
    for message, run in re.findall(rf"^Job \d+: ({'|'.join(MESSAGES)}) (\S+)$", output, re.MULTILINE):
        found.setdefault(run, set()).add(MESSAGES[message])
    return found


def finished(output: str, rule: str) -> int:
    return len(re.findall(rf"Finished jobid: \d+ \(Rule: {rule}\)", output))


def facts(project, run: str, file: str) -> dict:
    return json.loads((project.latest(run) / file).read_text())


def base_of(project, run: str) -> dict:
    """The manifest of the model that a run trained from, by the digest of its weights."""
    wanted = facts(project, run, "run.json")["digests"]["base_model"]
    manifests = [json.loads(path.read_text()) for path in project.folder.glob("results/models/*/manifest.json")]
    return next(manifest for manifest in manifests if manifest["weights_digest"] == wanted)


def test_everything_runs_in_order(project):
    project.run()
    assert started(project.output) == dict.fromkeys(NAMES, TRAINING)
    counts = {"prepare_tokenizer": 1, "prepare_model": 2, "tokenize_records": 2, "rightsize": 2}
    assert {rule: finished(project.output, rule) for rule in counts} == counts


def test_the_second_run_starts_from_what_the_first_one_made(project):
    first, merged, onward = (facts(project, run, "run.json")["digests"] for run in ("first", "merged", "onward"))
    assert merged["base_run"] == first["merged"] == base_of(project, "merged")["merged_digest"]
    assert onward["start_adapter"] == first["adapter"] != onward["adapter"]
    assert onward["base_model"] == first["base_model"] != merged["base_model"]
    weights = project.latest("first") / "merged" / "model.safetensors"
    copies = list(project.folder.glob("results/models/run-first-*/model/model.safetensors"))
    assert [copy.samefile(weights) for copy in copies] == [True]
    tuned, base = (facts(project, *pair) for pair in (("first", "evaluation.json"), ("merged", "evaluation.json")))
    assert tuned["merged"]["loss"] != base["base"]["loss"]  # other held-out records
    assert set(facts(project, "merged", "run.json")["earlier"]) == {"first"}


def test_the_same_command_again_does_nothing(project):
    assert project.run() == set()


def test_data_code_with_the_same_outcome_retrains_nothing(project):
    project.edit("scripts/dedupe_records.py", "def main() -> None:", "CHANGED = 1\n\n\ndef main() -> None:")
    project.run()
    assert started(project.output) == {name: {"describe_run", "render_report"} for name in NAMES}
    assert finished(project.output, "prepare_model") == 0
    assert project.run() == set()


def test_a_learning_rate_of_the_first_run_reruns_them_all_and_no_data(project):
    before = project.adapter("merged")
    project.edit("config/config.yaml", "first: {}", "first: {train: {learning_rate: 2e-3}}")
    assert project.run() == TRAINING | {"prepare_model", "plan_run", "write_model_card"}
    assert started(project.output) == dict.fromkeys(NAMES, TRAINING)
    assert project.adapter("merged") != before


def test_going_back_finds_everything_in_place(project):
    project.edit("config/config.yaml", "first: {train: {learning_rate: 2e-3}}", "first: {}")
    assert project.run() == set()


@pytest.mark.slow
def test_other_data_of_the_first_run_under_the_same_names_reruns_the_others_without_their_data(project):
    with project.raw.open("a") as file:
        file.write(record(9999) + "\n")
    project.run()
    made = {name: rules | {"accept_merge"} for name, rules in started(project.output).items()}  # see the test below
    assert made == dict.fromkeys(NAMES, TRAINING)
    assert finished(project.output, "tokenize_records") == finished(project.output, "prepare_model") == 1
    assert project.run() == set()


def test_a_merge_with_the_same_outcome_trains_no_step_again(project):
    before = project.adapter("merged")
    project.edit("scripts/merge_adapter.py", "def main() -> None:", "CHANGED = 1\n\n\ndef main() -> None:")
    project.run()
    # When the first run's merged weights are there, Snakemake looks again: a merge that was made by then and is what it
    # was needs no second acceptance.
    made = {name: rules - {"accept_merge"} for name, rules in started(project.output).items()}
    assert made["merged"] == made["onward"] == TRAINING - {"train_model", "accept_merge"}
    assert project.run() == set()
    assert project.adapter("merged") == before


def test_a_circle_is_one_sentence(project):
    project.edit("config/config.yaml", "first: {}", 'first: {model: {name_or_path: "run:merged"}}')
    project.run(expect=1)
    assert (
        "ConfigError: runs.merged in config/config.yaml: model.name_or_path of the run merged is run:first, which is "
        "circular" in (project.output)
    )
    assert "Traceback" not in project.output
