"""A full run from scratch, and one that is killed in each stage, are the same bytes; bad input ends in one sentence."""

import random
import re
import sys
import time
import zipfile
from pathlib import Path

import preloaded
import pytest
from project import CONFIG, Project, kill_all_in, record, stable_content

sys.path.append(str(Path(__file__).parents[1] / "faults"))

from random_faults import QUICK
from torture import Campaign

pytestmark = pytest.mark.story

KILLED_IN = (
    *("stage_sources", "dedupe_records", "tokenize_records", "prepare_model"),
    *("train_model", "merge_adapter", "evaluate_model", "render_report"),
)
SECRETS = {name: f"secret-{name.lower()}-0123" for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        yield small_project(tmp_path_factory.mktemp("first"))


def small_project(folder):
    project = Project(folder)
    lines = [record(number) for number in range(120)]
    lines[5] = '{"prompt": "half a li'
    lines.append(lines[0])
    project.raw.write_text("\n".join(lines) + "\n")
    return project


def kill_in(project, stage):
    """Start the workflow and kill all of it while a job of a stage runs."""
    process = project.start(programs=None)
    deadline = time.monotonic() + 120
    while not list((project.folder / "logs" / stage).glob("*.log")) and process.poll() is None:
        assert time.monotonic() < deadline, f"{stage} never began"
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    assert process.poll() is None, f"ended before {stage}"
    kill_all_in(project.folder)
    process.wait()


def test_a_run_that_is_killed_in_each_stage_ends_in_the_bytes_of_one_from_scratch(project, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHASHSEED", "random")
        patch.setattr(project, "programs", preloaded.programs(PYTHONHASHSEED="random"))
        project.run()
    lines = project.screen.rstrip().splitlines()
    assert len(lines) <= 40, lines
    assert [line.split()[0] for line in lines[-5:]] == ["verdict", "change", "cost", "model", "report"]
    assert (project.folder / lines[-1].split()[1]).is_file()
    other = small_project(tmp_path)
    for stage in KILLED_IN:
        kill_in(other, stage)
    other.run()
    assert "Traceback" not in other.output
    one, two = (stable_content(p.folder / "results") for p in (project, other))
    assert sorted(one) == sorted(two)
    assert [name for name in one if one[name] != two[name]] == []


def test_no_secret_is_in_any_file(project):
    kept = [path for name in ("results", "work", "logs", ".snakemake") for path in (project.folder / name).rglob("*")]
    content = {path: path.read_bytes() for path in kept if path.is_file()}
    assert content
    for value in SECRETS.values():
        assert [path for path, text in content.items() if value.encode() in text] == []


def test_the_account_of_the_data_is_complete(project):
    import json

    (manifest,) = (project.folder / "results/data/read_records").glob("*/manifest.json")
    facts = json.loads(manifest.read_text())
    assert (facts["records"], facts["quarantined"], facts["reasons"]) == (120, 1, {"not_json": 1})
    (manifest,) = (project.folder / "results/data/dedupe_records").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["removed"] == 1


def test_a_snakemake_report_holds_the_runs_pages_with_their_captions(project):
    project.run("--report", "report.zip", "train")
    with zipfile.ZipFile(project.folder / "report.zip") as archive:
        content = [archive.read(name) for name in archive.namelist()]
    for name in ("report.html", "facts.json"):
        assert (project.latest() / name).read_bytes() in content
    everything = b"".join(content)
    assert b"What was trained on which data" in everything  # a caption
    assert b'"Runs"' in everything  # a category


def test_one_core_is_enough(project):
    project.run("--cores", "1", "train")
    assert "Nothing to be done" in project.output
    assert project.screen.splitlines()[-1].startswith("report  ")


def test_after_each_random_fault_the_same_command_ends_in_the_same_bytes(project):
    """A short campaign of ``make torture``, with one fault of each quick kind at places that the seed decides."""
    campaign = Campaign(project, seed=19)
    for fault in QUICK:
        try:
            campaign.step(fault)
        except AssertionError as error:
            raise AssertionError(f"{campaign.faults}: {error}") from None


BAD = {
    "missing file": (None, "", "data/train.jsonl does not exist"),
    "empty file": ("", "", "train.jsonl"),
    "not JSON": ("hello\nworld\n", "", "train.jsonl"),
    "unknown format": ('{"a": 1}\n' * 9, "", "data.columns"),
    "misspelt key": (record(1), "train: {learning_rat: 1}", "Did you mean learning_rate?"),
    "run name with a shell in it": (record(1), 'runs: {"x;touch PWNED": {}}', "runs has the name"),
    "run name with a path": (record(1), 'runs: {"../x": {}}', "runs has the name"),
    "every label masked": (
        "\n".join(record(n) for n in range(20)),
        "tokens: {chat_template: '{{ messages[0].content }}{% generation %}{% endgeneration %}'}",
        "no record can be trained on",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_sentence_and_publishes_nothing(tmp_path, case):
    content, keys, words = BAD[case]
    section = keys.split(":")[0]
    lines = [line for line in CONFIG.splitlines() if not (keys and line.startswith(f"{section}:"))]
    joined = (
        "\n".join(lines).replace("        logging_steps: 2, save_steps: 2, cpu_threads: 1}\n", "")
        if section == "train"
        else "\n".join(lines)
    )
    project = Project(tmp_path, joined + "\n" + keys + "\n")
    if content is not None:
        project.raw.write_text(content)
    project.run(expect=1)
    assert words in project.output
    assert "--spec" not in project.screen
    assert len(re.findall(r"^(?:Config|Data|Plan|Training)Error: ", project.screen, re.MULTILINE)) == 1, project.screen
    assert not {"Traceback", "NameError", "TypeError"} & set(project.output.replace(":", " ").split())
    assert not list(project.folder.rglob("PWNED"))
    assert not list(project.folder.glob("results/runs/*/*/report.html"))
