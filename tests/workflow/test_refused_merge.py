"""A merge that is refused costs nothing but the merged model, with real Snakemake. The tests build on each other.

Of four runs one has such a merge, one waits for it, one has data that are too long, and one is finished.
"""

import json

import pytest
from project import CONFIG, Project

pytestmark = pytest.mark.story

# A fault in the merge alone: nothing before it and nothing after it uses this module.
MODULE, RIGHT, WRONG = "scripts/snaketune/merge/streaming.py", "weight.add_(change", "weight.sub_(change"
RUNS = """runs:
  one: {}
  two: {model: {name_or_path: "run:one"}}
  short: {tokens: {max_length: 16, on_too_long: error}}
  without: {merge: {enabled: false}}
"""
TOO_LONG, OUTCOMES = "on_too_long", "\nFinished runs: without.\nUnfinished runs: one, short, two.\n"
SENTENCE = "The merged weights are not base plus adapter"
OF_THE_REST = {"merge_adapter", "evaluate_model", "describe_run", "render_report", "write_model_card"}


def record(number: int) -> str:
    return json.dumps({"prompt": f"What follows {number - 1}?", "completion": f"The number {number} follows it. " * 3})


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    config = CONFIG.replace("runs: {one: {}}\n", RUNS).replace("test_size: 0.01", "test_size: 0.1")
    project = Project(tmp_path_factory.mktemp("project"), config.replace("max_steps: 8", "max_steps: 2"))
    project.edit(MODULE, RIGHT, WRONG)
    project.raw.write_text("".join(record(number) + "\n" for number in range(60)))
    return project


def fact(project, name: str) -> dict:
    return json.loads((project.latest() / name).read_text())


def test_evaluation_report_and_card_come_and_the_command_ends_with_the_sentence(project):
    rules = project.run(expect=1)
    assert rules >= OF_THE_REST and not rules & {"accept_merge"}
    assert f"TrainingError: {SENTENCE}" in project.output and "Traceback" not in project.output
    assert set(fact(project, "evaluation.json")) >= {"base", "tuned"} and "merged" not in fact(
        project, "evaluation.json"
    )
    assert fact(project, "merge.json")["refused"]["reason"].startswith(SENTENCE)
    assert fact(project, "run.json")["digests"]["merged"] is None
    for name in ("report.html", "adapter_card.md", "adapter/README.md"):
        assert SENTENCE in (project.latest() / name).read_text(), name
    assert not (project.latest() / "merged").exists() and not (project.latest() / "merged.manifest.json").exists()
    assert TOO_LONG in project.output and OUTCOMES in project.output
    assert (project.latest("without") / "report.html").is_file()
    assert not (project.folder / "results" / "runs" / "two").exists() or not list(
        (project.folder / "results" / "runs" / "two").glob("*/adapter*")
    )


def test_the_same_command_again_computes_nothing_and_ends_the_same_way(project):
    assert project.run(expect=1) == set()
    assert f"TrainingError: {SENTENCE}" in project.output


def test_a_model_that_is_missing_is_not_exported(project):
    (project.folder / "converter.py").write_text("")
    project.edit("config/config.yaml", "runs:\n", "merge: {gguf_converter: converter.py}\nruns:\n")
    assert project.run("export_gguf", expect=1) == set()
    assert f"TrainingError: {SENTENCE}" in project.output
    assert not list(project.folder.glob("results/runs/*/*/model.gguf"))


def test_the_page_of_a_refused_run_names_the_merge(project):
    project.run("report")
    page = (project.latest() / "unfinished.html").read_text()
    assert SENTENCE in page


def test_what_is_put_right_merges_and_trains_nothing_again(project):
    project.edit(MODULE, WRONG, RIGHT)
    card = project.latest().resolve().relative_to(project.folder) / "merged_card.md"
    assert project.run(str(card)) == OF_THE_REST | {"accept_merge"}
    assert fact(project, "merged.manifest.json") == fact(project, "merge.json")
    assert fact(project, "evaluation.json")["merged"] and (project.latest() / "merged" / "config.json").is_file()
    assert project.run(str(card)) == set()


def test_a_merge_refused_later_leaves_no_earlier_model(project):
    project.edit(MODULE, RIGHT, WRONG)
    project.run(expect=1)
    assert not (project.latest() / "merged").exists() and not (project.latest() / "merged.manifest.json").exists()
    assert "merged" not in fact(project, "evaluation.json")


@pytest.mark.slow
def test_a_merge_that_failed_by_circumstances_is_tried_again(project):
    project.edit(MODULE, WRONG, "weight.broken_(change")
    assert project.run(expect=1) >= OF_THE_REST
    assert "TrainingError: The merge ended with AttributeError" in project.output
    assert "merge_adapter" in project.run(expect=1)
    assert "failed for a reason of the machine: the merge is retried" in project.output
