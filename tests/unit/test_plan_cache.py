"""What is known of a model from earlier plans: the same plan, without its configuration, torch or transformers."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from plan_case import MODEL, inputs

from snaketune.core.errors import ConfigError
from snaketune.plan.cache import KeptAnswers, answers_about
from snaketune.plan.devices.machine import may_have_gpu
from snaketune.plan.planning import make_plan

SCRIPTS = Path(__file__).parents[2] / "scripts"


def planned(folder: Path, answers: KeptAnswers | None, model_folder: Path | None = None) -> dict:
    given = replace(inputs(folder, adapter={"type": "none"}), answers=answers)
    return make_plan(replace(given, model_folder=model_folder or given.model_folder))


def kept(folder: Path, code: str = "code", model: dict = MODEL) -> KeptAnswers:
    return answers_about(model, code, folder / "plans" / "model.json")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A folder with the answers of one plan, and that plan."""
    folder = tmp_path_factory.mktemp("plans")
    answers = kept(folder)
    plan = planned(folder, answers)
    answers.save()
    return folder, plan


def test_a_plan_with_and_from_answers_is_the_plan_without(first, tmp_path):
    folder, plan = first
    assert plan == planned(folder, None)
    # There is no configuration to read: everything is known.
    assert planned(folder, kept(folder), tmp_path) == plan


@pytest.mark.parametrize("changed", [{"code": "other"}, {"model": {**MODEL, "files": {"model/config.json": "other"}}}])
def test_answers_of_other_code_or_another_model_do_not_count(first, tmp_path, changed):
    with pytest.raises(ConfigError, match=r"config\.json"):
        planned(first[0], kept(first[0], **changed), tmp_path)


def test_damaged_answers_are_found_out_again(first, tmp_path, capsys):
    shutil.copytree(first[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "plans" / "model.json"
    path.write_text(path.read_text().replace('"embedding": ', '"embedding": 1'))
    assert planned(tmp_path, kept(tmp_path)) == first[1]
    assert "is damaged" in capsys.readouterr().err


def test_answers_of_another_identity_are_forgotten_when_new_ones_are_written(tmp_path):
    for code, question in (("old", "one"), ("new", "two"), ("new", "three")):
        answers = kept(tmp_path, code)
        assert answers.value(question, lambda: 7) == 7
        answers.save()
    text = (tmp_path / "plans" / "model.json").read_text()
    assert "one" not in text and "two" in text and "three" in text


def test_planning_does_not_load_torch_before_something_is_unknown():
    code = (
        "import snaketune.plan.cache, snaketune.plan.gate, snaketune.plan.planning, snaketune.plan.devices.machine\n"
        "import snaketune.model.adapters.new_tokens, sys\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["nvidia0", "nvidiactl", "nvhost-gpu", "dxg", "kfd"])
def test_torch_is_asked_for_gpus_where_a_driver_has_a_device_file(tmp_path, name):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "null").touch()
    assert not may_have_gpu(tmp_path)
    (tmp_path / "dev" / name).touch()
    assert may_have_gpu(tmp_path)
