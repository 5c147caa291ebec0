"""A merged model of several runs' adapters, and its export, with real Snakemake. The tests build on each other."""

import json

import pytest
from project import CONFIG, Project
from safetensors import safe_open

pytestmark = pytest.mark.story

RUNS = """runs:
  one: {}
  two: {data: {sources: [data/more.jsonl]},
        merge: {method: dare_linear, density: 0.8, adapters: [{run: one, weight: 0.5}, {run: two, weight: 0.7}]}}
"""
CONVERTER = """import sys
from pathlib import Path
arguments = sys.argv[1:]
Path(arguments[arguments.index("--outfile") + 1]).write_text(" ".join(Path(a).name for a in arguments))
"""


def record(number: int) -> str:
    return json.dumps({"prompt": f"What follows {number - 1}?", "completion": f"The number {number} follows it. " * 3})


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    config = CONFIG.replace("runs: {one: {}}\n", RUNS).replace("test_size: 0.01", "test_size: 0.1")
    project = Project(tmp_path_factory.mktemp("project"), config)
    for path, numbers in ((project.raw, range(60)), (project.folder / "data" / "more.jsonl", range(500, 560))):
        path.write_text("".join(record(number) + "\n" for number in numbers))
    return project


def jobs_of(output: str, rule: str) -> list[str]:
    messages = {"merge_adapter": "Merging ", "train_model": "Training ", "evaluate_model": "Evaluating "}
    lines = (line.partition(": ")[2] for line in output.splitlines() if line.startswith("Job "))
    return sorted(line.removeprefix(messages[rule]) for line in lines if line.startswith(messages[rule]))


def test_both_adapters_are_in_the_merged_model(project):
    project.run()
    assert jobs_of(project.output, "merge_adapter") == jobs_of(project.output, "train_model") == ["one", "two"]
    facts, one, two = (
        json.loads((project.latest(run) / file).read_text())
        for run, file in (("two", "merged.manifest.json"), ("one", "run.json"), ("two", "run.json"))
    )
    digests = [run["digests"]["adapter"] for run in (one, two)]
    assert facts["check"]["verdict"] == "equal"
    assert facts["combination"] == {
        "adapters": [
            {"run": "one", "weight": 0.5, "digest": digests[0]},
            {"run": "two", "weight": 0.7, "digest": digests[1]},
        ],
        "method": "dare_linear",
        "density": 0.8,
        "seed": 0,
    }
    assert "one" in two["earlier"] and "earlier" not in one
    with safe_open(project.latest("two") / "merged" / "combined_adapter" / "adapter_model.safetensors", "pt") as file:
        assert len(list(file.keys())) == facts["check"]["adapter_tensors"] == 14


def test_the_same_command_again_does_nothing(project):
    assert project.run() == set()


def test_an_export_without_a_converter_is_one_sentence(project):
    project.run("export_gguf", expect=1)
    assert "ConfigError: export_gguf needs llama.cpp's convert_hf_to_gguf.py" in project.output
    assert "Traceback" not in project.output


@pytest.mark.slow
def test_another_training_of_a_merged_run_merges_both_again_and_trains_one(project):
    before = project.adapter("two")
    (project.folder / "converter.py").write_text(CONVERTER)
    project.edit("config/config.yaml", "one: {}", "one: {train: {learning_rate: 2e-3}}")
    project.edit("config/config.yaml", "runs:\n", "merge: {gguf_converter: converter.py}\nruns:\n")
    rules = project.run("train", "export_gguf")
    assert jobs_of(project.output, "train_model") == ["one"]
    assert jobs_of(project.output, "merge_adapter") == jobs_of(project.output, "evaluate_model") == ["one", "two"]
    assert not rules & {"read_records", "tokenize_records", "rightsize", "pack_rows", "prepare_model"}
    assert project.adapter("two") == before
    for run in ("one", "two"):
        folder = project.latest(run)
        assert (folder / "model.gguf").read_text() == "merged --outfile model.gguf --outtype f32", run
