"""Evaluation files and task files are part of what evaluating depends on, by content."""

import pytest

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.evaluate import evaluation_packages
from snaketune.workflow import job_environment
from snaketune.workflow.sources.inputs import ExternalInputs
from snaketune.workflow.stages import slice_of


def resolved(**sections):
    file = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}, **sections}
    return resolve_runs(Layer("c", file), {}, "nowhere")[0]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    return tmp_path


def known_of(**evaluate):
    wanted = resolved(evaluate=evaluate).config
    inputs = ExternalInputs("digests.json")
    inputs.look_up(wanted)
    return inputs.outside("evaluate_model", wanted)


def test_their_content_is_known_to_the_evaluation(place):
    (place / "e1.jsonl").write_text("{}")
    (place / "t.yaml").write_text("task: x")
    before = known_of(files="e*.jsonl", tasks=["t.yaml"])
    assert [entry["path"] for entry in before["evaluation_files"]] == ["e1.jsonl"]
    assert [entry["path"] for entry in before["evaluation_tasks"]] == ["t.yaml"]
    (place / "e1.jsonl").write_text("[]")
    assert known_of(files="e*.jsonl", tasks=["t.yaml"])["evaluation_files"] != before["evaluation_files"]
    assert known_of() == {}


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"files": ["missing.jsonl"]}, r"evaluate\.files: missing\.jsonl does not exist"),
        ({"files": ["builtin:quickstart"]}, r"evaluate\.files: builtin:quickstart does not exist"),
        ({"tasks": ["gsm8k"]}, r"evaluate\.tasks: gsm8k does not exist"),
        ({"tasks": ["a.jsonl"]}, r"evaluate\.tasks: a\.jsonl is not \.yaml or \.yml: name task files"),
        ({"tasks": ["."]}, r"evaluate\.tasks: \. is a folder: name its files, for example \./\*\.yaml"),
    ],
)
def test_what_cannot_be_used_names_the_key(own, words):
    with pytest.raises(ConfigError, match=words):
        known_of(**own)


def test_columns_of_files_do_not_matter_without_files():
    one, two = resolved().config, resolved(evaluate={"columns": {"prompt": "q"}}).config
    assert slice_of(one, "evaluate_model") == slice_of(two, "evaluate_model")
    files = {"files": ["e.jsonl"]}
    one, two = resolved(evaluate=files).config, resolved(evaluate=files | {"columns": {"prompt": "q"}}).config
    assert slice_of(one, "evaluate_model") != slice_of(two, "evaluate_model")


def test_a_missing_package_is_named_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(evaluation_packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^run default: evaluate\.metrics: bleu needs the package sacrebleu"):
        job_environment.require_packages("default", resolved(evaluate={"metrics": ["bleu"]}).config, "evaluate_model")
