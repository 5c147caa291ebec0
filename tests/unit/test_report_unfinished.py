"""The page of a run that is unfinished."""

import base64
import hashlib
import re

import orjson
import pytest

from snaketune.report.unfinished.unfinished import gather_unfinished_run, identity_of, log_tail
from snaketune.report.unfinished.unfinished_page import render_unfinished, unfinished_headline
from snaketune.workflow.lifecycle import drop_unfinished

STAGES = ("read_records", "pack_rows", "plan_run", "train_model", "evaluate_model")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose training was killed after step 30 of 60, with a checkpoint of step 20."""
    monkeypatch.chdir(tmp_path)
    found = {"run": "one", "id": "lora-1", "folder": "results/runs/one/lora-1", "stages": []}
    for stage in STAGES:
        paths = {"output": f"results/{stage}.json", "log": f"logs/{stage}.log"}
        found["stages"].append({"stage": stage, **paths})
    for stage in STAGES[:3]:
        write(tmp_path / f"results/{stage}.json", b"{}")
        write(tmp_path / f"logs/{stage}.log", b"done\n")
    write(tmp_path / "logs/train_model.log", b"step 30/60  loss 2.5\n")
    write(tmp_path / "results/runs/one/lora-1/plan.json", orjson.dumps({"steps": 60}))
    lines = [{"step": s, "loss": 4 - s / 20, "tokens": 100 * s, "tokens_per_second": 50.0} for s in (10, 20, 30)]
    write(tmp_path / "work/metrics.jsonl", b"".join(orjson.dumps(one) + b"\n" for one in lines) + b'{"st')
    write(tmp_path / "work/checkpoint-20/checkpoint.json", orjson.dumps({"step": 20, "max_steps": 60}))
    write(tmp_path / "work/.partial-checkpoint-30/x", b"")
    return found


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def words(page):
    return " ".join(re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL).split())


def test_a_killed_training_shows_how_far_it_came_and_how_to_go_on(run, tmp_path):
    attempt = gather_unfinished_run(run, tmp_path / "work", "snakemake --cores 8 train --config x=1")
    page = render_unfinished(attempt)
    text = words(page)
    assert unfinished_headline(attempt) == "Training stopped at step 30 of 60"
    assert "it was killed, or the machine went down" in text
    assert "Training resumes from step 20" in text
    assert "Last training loss 2.50" in text
    assert "snakemake --cores 8 train --config x=1" in text
    assert "logs/train_model.log" in text
    assert "step 30/60 loss 2.5" in text
    assert 'id="chart-loss"' in page
    assert "Trained for 1.00 min 3,000 tokens" in text


def test_the_error_sentence_of_the_log_is_in_the_headlines_place(run, tmp_path):
    log = "progress 1%\rprogress 99%\nTrainingError: the loss at step 30 is not finite: lower train.learning_rate.\n"
    write(tmp_path / "logs/train_model.log", log.encode())
    attempt = gather_unfinished_run(run, tmp_path / "work", "x")
    assert attempt.error.startswith("TrainingError: the loss at step 30")
    assert attempt.tail[0] == "progress 99%"
    assert "it was killed" not in render_unfinished(attempt)


def test_a_run_that_stopped_after_training_says_that_training_is_kept(run, tmp_path):
    write(tmp_path / "results/train_model.json", b"{}")
    write(tmp_path / "logs/evaluate_model.log", b"DataError: questions.jsonl is empty: fill it.\n")
    write(tmp_path / "results/runs/one/lora-1/adapter.manifest.json", b'{"steps": 60}')
    write(tmp_path / "results/runs/one/lora-1/metrics.jsonl", b'{"step": 60, "loss": 1.0}\n')
    attempt = gather_unfinished_run(run, None, "x")
    assert unfinished_headline(attempt) == "Stopped in: Evaluating; training is finished and kept"
    assert attempt.error == "DataError: questions.jsonl is empty: fill it."
    assert attempt.training.metrics.curves["loss"].points == ((60, 1.0),)


def test_a_run_that_never_began_has_no_page(run, tmp_path):
    for folder in ("logs", "results"):
        for path in (tmp_path / folder).rglob("*.*"):
            path.unlink()
    assert gather_unfinished_run(run, None, "x") is None


def test_a_stop_before_the_first_step_draws_nothing_and_says_so(run, tmp_path):
    page = render_unfinished(gather_unfinished_run(run, tmp_path / "nowhere", "x"))
    assert "Training stopped before its first logged step" in page
    assert "No loss was logged" in page
    assert "from the beginning" in page


def test_hostile_logs_are_text_and_only_the_pages_own_scripts_may_run(run, tmp_path):
    hostile = "Error</script><script>alert(1)</script>\x1b[31m\u202e" + "y" * 1_000_000
    write(tmp_path / "logs/train_model.log", ("ConfigError: " + hostile + "\n" + hostile).encode())
    page = render_unfinished(gather_unfinished_run(run, tmp_path / "work", hostile))
    assert "<script>alert" not in page
    assert not set("\x1b\u202e") & set(page)
    assert len(page) < 200_000
    code = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", page, re.DOTALL)
    assert len(code) == 2
    for content in code:
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in page


def test_equal_facts_give_equal_bytes(run, tmp_path):
    pages = {render_unfinished(gather_unfinished_run(run, tmp_path / "work", "x")) for _ in range(2)}
    assert len(pages) == 1


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    write(tmp_path / "a.log", b"begin\n" + b"x" * 200_000 + b"\nend\n")
    assert log_tail(tmp_path / "a.log").endswith("\nend\n")
    assert "begin" not in log_tail(tmp_path / "a.log")


def test_a_run_without_data_needs_no_training_package_to_be_reported(run):
    run |= {"training": "{}", "rightsize": "none.json", "rows": "none.json", "model": "none.json", "start": None}
    run["rewards"] = {}
    assert identity_of(run) is None


def test_the_page_goes_away_when_everything_that_a_run_ends_in_is_there(tmp_path):
    files = [tmp_path / "plan.json", tmp_path / "report.html"]
    page = tmp_path / "unfinished.html"
    for path in (files[0], page):
        path.touch()
    drop_unfinished(list(map(str, files)))
    assert page.exists()
    files[1].touch()
    drop_unfinished(list(map(str, files)))
    assert not page.exists()
