"""Facts with wrong types and damaged bytes, without a record of what they were: no reader ends in a traceback.

Each reader makes what it makes of facts, or refuses them in a sentence that names the file.
"""

import json
import os
import random
import shutil
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_case import FILES, FOLDER, fact_paths

from snaketune.card.card import render_card
from snaketune.card.card_facts import load_card_facts
from snaketune.core.errors import SnaketuneError
from snaketune.core.manifest import damaged_files
from snaketune.facts.measured import RUN_INFO
from snaketune.facts.plan_facts import PLAN
from snaketune.plan.costs.past_runs import finished_runs, measured_run
from snaketune.plan.summary import describe_plan
from snaketune.report.compare.comparison import load_run
from snaketune.report.compare.comparison_page import find_runs, render_comparison
from snaketune.report.plan.plan_page import render_plan
from snaketune.report.report_facts import load_facts
from snaketune.report.run.history import run_before
from snaketune.report.run.page import render_run
from snaketune.report.run.table import fact_table, table_bytes
from snaketune.report.unfinished.unfinished import gather_unfinished_run
from snaketune.report.unfinished.unfinished_page import render_unfinished
from snaketune.report.unfinished.watching import describe_trainings, find_trainings
from snaketune.terminal.closing import end_of_runs
from snaketune.terminal.stage_lines import SUMMARIES, outcome
from snaketune.workflow.results.damage import heal
from snaketune.workflow.results.pruning import find_unused_work
from snaketune.workflow.results.unrecorded import RECORDED_FILES, STAGE_MANIFESTS

FUZZED = 10_000 if "SNAKETUNE_SLOW" in os.environ else 80
DEEP = "[" * 2000 + "]" * 2000
WRONG = [None, 3, "x", "", [], {}, [1], [[]], [None], {"a": 1}, {"": None}, True, -1, 0, -1.5, 10**30, 1e308, 1e-320]
TEXTS = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, DEEP, '"\\ud800"', "tru", "\ufeff{}", '{"a":1,"a":2}']
MARK = "its place"
FILE = {"model/chat_template.jinja": {"bytes": 3, "digest": "d"}}
CARD = {"license": "apache-2.0", "language": ["en"]}
BASE = {"kind": "hub", "name": "a/b", "repo": "a/b", "commit": "c", "weights_digest": "w", "files": FILE, "card": CARD}


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Give a value another type, drop it, put text that is no JSON in its place, or damage bytes."""
    kind = chance.choice(["type", "type", "type", "type", "text", "drop", "flip", "cut", "empty"])
    if kind in ("type", "text", "drop"):
        document = json.loads(content)
        holder, key = chance.choice(list(places(document)) or [(document, None)])
        if key is None:
            return b"[]"
        if kind == "drop" and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = MARK if kind == "text" else chance.choice(WRONG)
        return json.dumps(document).replace(f'"{MARK}"', chance.choice(TEXTS)).encode("utf-8", "replace")
    place = chance.randrange(len(content))
    bit = bytes([content[place] ^ 1 << chance.randrange(8)])
    return {"flip": content[:place] + bit + content[place + 1 :], "cut": content[:place], "empty": b""}[kind]


def places(value):
    """Yield every key and index of a document with what holds it."""
    for key in list(value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()):
        yield value, key
        yield from places(value[key])


def damage(path: Path, chance: random.Random) -> None:
    """Damage a file of JSON, or one of its lines."""
    content = path.read_bytes()
    if path.suffix == ".jsonl":
        lines = content.splitlines(keepends=True)
        number = chance.randrange(len(lines))
        lines[number] = damaged(lines[number].rstrip(b"\n"), chance) + b"\n"
        content = b"".join(lines)
    else:
        content = damaged(content, chance)
    path.write_bytes(content)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two finished runs with the facts of the golden one, and a training under way."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        shutil.copytree(FOLDER, Path("results/runs") / name / "lora-1")
    folder = Path("results/runs/one/lora-1")
    private = Path("work/runs/f")
    (private / "checkpoint-20").mkdir(parents=True)
    shutil.copy(folder / "metrics.jsonl", private)
    (private / "checkpoint-20" / "checkpoint.json").write_text('{"step": 20, "max_steps": 60, "files": {}}')
    (folder / "documents.jsonl").write_text('{"record": 1, "tokens": 10, "tuned_nll": 10.0, "base_nll": 12.5}\n' * 2)
    (folder / "base.json").write_text(json.dumps(BASE))
    tokens = json.loads((folder / FILES["tokens"]).read_text())
    tokens["files"] = {"chat_template.jinja": {"bytes": 9, "digest": "d"}}
    (folder / FILES["tokens"]).write_text(json.dumps(tokens))
    (folder / "facts.json").write_bytes(table_bytes(fact_table(load_facts(fact_paths(folder)))))
    for stage in STAGE_MANIFESTS:
        target = Path("results/data") / stage / "x" / "manifest.json"
        target.parent.mkdir(parents=True)
        shutil.copy(folder / f"{stage}.manifest.json", target)
    return folder


def every_reader(folder: Path) -> dict:
    """Return what reads the facts of a run, by name."""
    other, private = Path("results/runs/two/lora-1"), Path("work/runs/f")
    card = {name: str(folder / FILES[name]) for name in ("run", "reading", "dedupe", "split", "tokens", "rightsize")}
    card |= {name: str(folder / FILES[name]) for name in ("pack", "adapter", "evaluation", "merged")}
    card |= {"base": str(folder / "base.json"), "origin": str(folder / "base.json")}
    attempt = {"run": "one", "id": "lora-1", "folder": str(other), "stages": []}
    attempt["stages"] = [{"stage": "train_model", "output": str(folder / "run.json"), "log": "no.log"}]

    def report():
        facts = load_facts(fact_paths(folder))
        return table_bytes(fact_table(facts)), render_run(facts)

    def past_runs():
        host = json.loads((other / "run_info.json").read_text())["machine"]["host"]
        found = finished_runs(Path("results"), SimpleNamespace(is_cpu=True), host)
        return [measured_run(*one, 1e9, 1) for one in found]

    return {
        "report": report,
        "comparison": lambda: render_comparison(
            [load_run(folder), load_run(other)], find_runs(Path("results")), Path("results")
        ),
        "card": lambda: render_card(load_card_facts("adapter", card)),
        "plan page": lambda: render_plan(PLAN.read(folder / "plan.json"), "one", "lora-1"),
        "plan": lambda: describe_plan(PLAN.read(folder / "plan.json"), "one", None),
        "unfinished": lambda: render_unfinished(gather_unfinished_run(attempt, private, "snakemake")),
        "watch": lambda: describe_trainings(find_trainings(Path("work"), time.time()), 80, Path("work")),
        "terminal": lambda: end_of_runs({"one": folder, "two": other}, "ask", "compare"),
        "stages": lambda: [outcome(rule, [str(path)]) for rule in SUMMARIES for path in folder.glob("*.json")],
        "history": lambda: run_before(Path("results"), other, RUN_INFO.read(other / "run_info.json")),
        "past runs": past_runs,
        "prune": lambda: find_unused_work("work", "results", {"one/lora-1"}),
        "manifests": lambda: damaged_files(folder / "adapter.manifest.json"),
    }


def test_no_reader_ends_in_a_traceback(project):
    chance, refused, found = random.Random(19), 0, {}
    readers = every_reader(project)
    for reader in readers.values():
        reader()  # of what is whole
    files = [*sorted(project.glob("*.json*")), Path("work/runs/f/metrics.jsonl")]
    files.append(Path("work/runs/f/checkpoint-20/checkpoint.json"))
    for _ in range(FUZZED):
        path, before = (chosen := chance.choice(files)), chosen.read_bytes()
        damage(path, chance)
        for name in chance.sample(sorted(readers), 4):
            try:
                readers[name]()
            except SnaketuneError as error:
                assert path.name in str(error), (name, path, error)
                refused += 1
            except Exception as error:
                found.setdefault(f"{name}: {type(error).__name__} at {where(error)}", f"{path.name}: {error}")
        path.write_bytes(before)
    assert not found, "\n".join(f"{place}: {error}" for place, error in found.items())
    assert refused > FUZZED / 20


# By the ten thousand: what another run of them may not meet. An ellipsis drops the key.
MET = [
    ("tokenize_records.manifest.json", "files.chat_template.jinja", ...),
    ("tokenize_records.manifest.json", "files.chat_template.jinja.bytes", ...),
    ("metrics.jsonl", "tokens", ...),
    ("run_info.json", "seconds.evaluation", None),
    ("run_info.json", "seconds.data", ...),
    ("plan.json", "about.steps", ...),
    ("plan.json", "about.cost_usd.high", {}),
    ("plan.json", "work.eval_tokens", None),
    ("plan.json", "about.steps.low", -1),
    ("plan.json", "memory_gb", 1e308),
    ("plan.json", "memory.head", "x"),
    ("plan.json", "ownership", None),
    ("evaluation.json", "base", -1),
    ("evaluation.json", "tuned.exact_match", -1),
    ("plan.json", "fit.0.methods.4bit", ...),
    ("plan.json", "fit.0.methods.lora.verdict", ""),
    ("plan.json", "planned_at", "x"),
    ("history.json", "stages.0.finished", "x"),
    *(("history.json", f"stages.{stage}.finished", None) for stage in range(3)),
    ("facts.json", "0.name", 3),
    ("../../../../work/runs/f/checkpoint-20/checkpoint.json", "max_steps", {}),
    ("../../../../work/runs/f/checkpoint-20/checkpoint.json", "max_steps", 10**30),
]


@pytest.mark.parametrize(("name", "place", "value"), MET)
def test_no_reader_ends_in_a_traceback_at_what_was_met(project, name, place, value):
    first, *others = (project / name).read_text().splitlines() if name.endswith("l") else [(project / name).read_text()]
    document = holder = json.loads(first)
    parts = place.replace("chat_template.jinja", "chat_template jinja").split(".")
    *keys, last = [int(part) if part.isdigit() else part.replace(" ", ".") for part in parts]
    for key in keys:
        holder = holder[key]
    holder[last] = None if value is ... else value
    if value is ...:
        del holder[last]
    (project / name).write_text("\n".join([json.dumps(document), *others]))
    for reader in every_reader(project).values():
        with suppress(SnaketuneError):
            reader()


def where(error: Exception) -> str:
    """Return the innermost place of ours that an error comes from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/snaketune/" in frame.filename]
    return f"{frames[-1].filename.rpartition('/snaketune/')[2]}:{frames[-1].lineno}"


def test_the_same_command_rebuilds_what_its_readers_refuse(project, capsys):
    chance = random.Random(20)
    facts = [project / name for name in RECORDED_FILES if (project / name).is_file()]
    facts += [Path("results/data") / stage / "x" / "manifest.json" for stage in STAGE_MANIFESTS]
    forms = RECORDED_FILES | STAGE_MANIFESTS
    dropped = 0
    for _ in range(FUZZED // 2):
        path, before = (chosen := chance.choice(facts)), chosen.read_bytes()
        damage(path, chance)
        try:
            forms[path.name if path.name in forms else path.parent.parent.name].read(path)
            is_refused = False
        except SnaketuneError as error:
            is_refused = "format is" not in str(error)  # a newer version's is its own to repair
        heal([str(path)], "work")
        assert not (is_refused and path.exists()), path.read_bytes()
        assert path.exists() != ("rebuilt" in capsys.readouterr().err)
        dropped += not path.exists()
        path.write_bytes(before)
    assert dropped > FUZZED / 8
