"""What the terminal says: one line per stage, a failure once, and five lines at the end."""

import json
import logging
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from snaketune.terminal import plugin
from snaketune.terminal.closing import end_of_runs
from snaketune.terminal.stage_lines import stages_of

QUIET = {**dict.fromkeys(("verbose", "debug_dag", "printshellcmds", "dryrun"), False), "quiet": None, "nocolor": True}
FACTS = {
    "verdict.headline": "Tuning made the model better on the held-out data",
    "training.steps": 400,
    "evaluation.base.loss": 1.697,
    "evaluation.base.exact_match": 0.0,
    "evaluation.tuned.loss": 0.0048,
    "evaluation.tuned.exact_match": 1.0,
    "evaluation.tuned.n_generated": 238,
    "evaluation.tuned_minus_base.loss.low": -1.788,
    "evaluation.tuned_minus_base.loss.high": -1.603,
    "measured.hours": 0.01327,
    "measured.cost": 0.25,
}


@pytest.fixture
def handler():
    handler = plugin.LogHandler(SimpleNamespace(**QUIET, stdout=False, show_failed_logs=True), None)
    handler.lines = []
    handler._write = handler.lines.append
    yield handler
    handler.close()


def send(handler, event, text="", level=logging.INFO, created=100.0, **values):
    record = logging.makeLogRecord({"msg": text, "levelno": level, "event": event, "created": created, **values})
    handler.emit(record)


def begin(handler, number, rule, outputs=(), **wildcards):
    values = {"jobid": number, "rule_name": rule, "output": list(outputs), "wildcards": wildcards, "log": []}
    send(handler, LogEvent.JOB_INFO, f" Rule: {rule}", **values)


def test_a_stage_is_one_line_that_says_what_came_out(handler, tmp_path):
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"records_in": 4040, "kept": 3604}))
    begin(handler, 3, "dedupe_records", [str(tmp_path / "kept.jsonl"), str(manifest)])
    send(handler, LogEvent.SHELLCMD, "Shell command: python scripts/dedupe_records.py --spec {…}")
    send(handler, LogEvent.JOB_FINISHED, "Finished jobid: 3 (Rule: dedupe_records)", created=100.4, job_id=3)
    send(handler, LogEvent.PROGRESS, "1 of 9 steps", done=1, total=9)
    assert handler.lines == ["dedupe     4,040 → 3,604 records, 0.4 s"]
    assert str(manifest) in handler.made


def test_a_long_stage_says_that_it_begins_and_bookkeeping_says_nothing(handler):
    begin(handler, 1, "train_model", run="mine")
    begin(handler, 2, "write_model_card", run="mine")
    send(handler, LogEvent.JOB_FINISHED, job_id=2)
    assert handler.lines == ["train      mine: started"]


def test_facts_that_cannot_be_read_leave_the_time(handler, tmp_path):
    begin(handler, 1, "dedupe_records", [str(tmp_path / "manifest.json")])
    send(handler, LogEvent.JOB_FINISHED, job_id=1, created=101.0)
    assert handler.lines == ["dedupe     1.0 s"]


def test_a_failure_is_said_without_its_command(handler):
    begin(handler, 1, "plan_run", run="mine")
    failed = {"jobid": 1, "rule_name": "plan_run", "shellcmd": "python scripts/plan_run.py --spec {}", "log": ["a.log"]}
    send(handler, LogEvent.JOB_ERROR, "Error in rule plan_run, jobid: 1", logging.ERROR, 102.0, **failed)
    command = (
        "RuleException:\nCalledProcessError in file rules/plan.smk, line 3:\nCommand 'python --spec {}' returned 2."
    )
    send(handler, LogEvent.ERROR, command, logging.ERROR, exception="RuleException")
    send(handler, None, "Exiting because a job execution failed. Look above for error messages", logging.ERROR)
    text = "WorkflowError:\nAt least one job did not complete successfully."
    send(handler, LogEvent.ERROR, text, logging.ERROR, exception="WorkflowError")
    assert handler.lines == ["plan       mine: failed after 2.0 s"]


@pytest.mark.parametrize("text", ["MissingInputException in rule train", "a warning"])
def test_other_errors_and_warnings_are_shown(handler, text):
    send(handler, None, text, logging.WARNING)
    send(handler, None, "Building DAG of jobs...")
    send(handler, None, "Unlocked working directory.")
    assert handler.lines == [text, "Unlocked working directory."]


def test_nothing_to_do_is_said_and_remembered(handler):
    send(handler, None, "Nothing to be done (all requested files are present and up to date).")
    assert handler.is_idle
    assert handler.lines[0].startswith("Nothing to be done")


@pytest.mark.parametrize("setting", ["verbose", "dryrun", "printshellcmds", "debug_dag"])
def test_snakemakes_own_lines_are_there_when_asked_for(setting, capsys):
    settings = SimpleNamespace(**{**QUIET, setting: True}, stdout=True, show_failed_logs=True)
    handler = plugin.LogHandler(settings, None)
    send(handler, None, "Building DAG of jobs...")
    assert capsys.readouterr().out == "Building DAG of jobs...\n"


def test_the_plugin_needs_no_installation():
    plugin.register()
    assert LoggerPluginRegistry().get_plugin("snaketune").log_handler is plugin.LogHandler


def test_what_was_reused_is_named_once_in_order():
    wanted = [
        "results/runs/one/x/adapter.manifest.json",
        *(f"results/data/{stage}/a/manifest.json" for stage in ("read_records", "stage_sources", "pack_rows")),
        "results/models/tiny/manifest.json",
    ]
    assert stages_of(wanted, {wanted[0]}) == ["stage", "read", "model", "pack"]


def written(folder, **changes):
    folder.mkdir()
    rows = [{"name": name, "value": value} for name, value in {**FACTS, **changes}.items()]
    (folder / "facts.json").write_text(json.dumps(rows))
    return folder


def test_the_end_says_whether_it_is_better_what_it_took_where_it_is_and_how_it_is_used(tmp_path):
    folder = written(tmp_path / "one")
    (folder / "merged").mkdir()
    lines = end_of_runs({"one": folder}, "snakemake --cores 8 ask", "snakemake --cores 8 compare")
    assert lines[1:] == [
        "verdict    Tuning made the model better on the held-out data",
        "change     loss 1.697 → 0.004800 (95% interval of the difference \u22121.79 to \u22121.60);"
        " exact match 0.0% → 100.0%",
        "cost       47.8 s for 400 steps, $0.25",
        f"model      {folder}/merged, to talk to it: snakemake --cores 8 ask",
        f"report     {folder}/report.html",
    ]


def test_a_reward_model_is_not_to_be_talked_to(tmp_path):
    folder = written(tmp_path / "one", **{"evaluation.tuned.reward_margin": 1.5})
    lines = end_of_runs({"one": folder}, "snakemake --cores 8 ask", "snakemake --cores 8 compare")
    assert lines[4] == f"model      {folder}/adapter (an adapter, not merged)"


def test_many_runs_have_one_line_each_and_a_run_without_facts_none(tmp_path):
    folders = {name: written(tmp_path / name) for name in ("a", "c")} | {"d": tmp_path / "d"}
    folders["b"] = written(tmp_path / "b", **{"evaluation.tuned.loss": 0.001})
    lines = end_of_runs(folders, "ask", "snakemake --cores 8 compare")
    assert [line.split()[0] for line in lines[1:4]] == ["a", "c", "b"]
    assert [line.endswith(", the lowest held-out loss") for line in lines[1:4]] == [False, False, True]
    assert "snakemake --cores 8 compare" in lines[-1]
    assert end_of_runs(folders, "ask", "") == lines[:-1]
    folders["b"] = written(tmp_path / "other", **{"evaluation.tuned.loss": 0.001, "digests.data": "other"})
    assert not any("lowest" in line for line in end_of_runs(folders, "ask", "compare"))
    assert not any(line.startswith("d ") for line in lines)
