"""The pages that a reader opens, made from the facts of the golden run."""

import shutil
import sys
from pathlib import Path

import orjson

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "unit"))

import ablate_case  # noqa: E402 - found through the line above
from report_case import FOLDER, fact_paths  # noqa: E402
from test_inspection import PAIR, group, source  # noqa: E402

from snaketune.facts.plan_facts import PLAN  # noqa: E402
from snaketune.inspection import inspect_group  # noqa: E402
from snaketune.report.ablation.ablate_page import render_ablation  # noqa: E402
from snaketune.report.compare.comparison import load_run  # noqa: E402
from snaketune.report.compare.comparison_page import render_comparison  # noqa: E402
from snaketune.report.inspection_page import render_inspection  # noqa: E402
from snaketune.report.plan.plan_page import render_plan  # noqa: E402
from snaketune.report.report_facts import load_facts  # noqa: E402
from snaketune.report.run.page import render_run  # noqa: E402
from snaketune.report.unfinished.unfinished import gather_unfinished_run  # noqa: E402
from snaketune.report.unfinished.unfinished_page import render_unfinished  # noqa: E402

COMPARED = ("run.json", "evaluation.json", "adapter.manifest.json", "run_info.json", "metrics.jsonl", "plan.json")


def write_pages(folder: Path) -> list[str]:
    """Write every kind of page into ``folder`` and return their names."""
    pages = {
        "report.html": render_run(load_facts(fact_paths())),
        "compare.html": comparison(folder),
        "unfinished.html": unfinished(folder),
        "ablate.html": ablation(folder),
        "inspect.html": inspection(folder),
        "plan.html": render_plan(PLAN.read(FOLDER / "plan.json"), "one", "lora-1"),
    }
    for name, content in pages.items():
        (folder / name).write_text(content, encoding="utf-8")
    return list(pages)


def comparison(folder: Path) -> str:
    runs = []
    for name, change in (("first", 1), ("second-run-with-a-rather-long-name", 2)):
        target = folder / "runs" / name / "lora-r8-00000000"
        target.mkdir(parents=True)
        for file in COMPARED:
            shutil.copy(FOLDER / file, target)
        run = orjson.loads((target / "run.json").read_bytes()) | {"run": name}
        run["config"]["train.seed"]["value"] = change
        (target / "run.json").write_bytes(orjson.dumps(run))
        runs.append(load_run(target))
    return render_comparison(runs, runs, folder)


def ablation(folder: Path) -> str:
    (folder / "ablation").mkdir()
    return render_ablation(ablate_case.facts(folder / "ablation"), "one", "lora-1")


def inspection(folder: Path) -> str:
    answers = [{**PAIR, "answer": words} for words in (PAIR["answer"], "x" * 300, "שלום, wie geht es?\n\tCode")]
    good = source(folder / "a-file-with-a-long-name-as-they-are-downloaded.jsonl", lines_of(answers) + "broken\n")
    bad = source(folder / "b.jsonl", '{"a": 1}\n')
    (folder / "inspection").mkdir()
    return render_inspection([inspect_group(group(good, bad, max_bad_fraction=0.5), folder / "inspection")])


def lines_of(records: list[dict]) -> str:
    return "".join(orjson.dumps(record).decode() + "\n" for record in records)


def unfinished(folder: Path) -> str:
    private = folder / "work"
    private.mkdir()
    shutil.copy(FOLDER / "metrics.jsonl", private)
    log = folder / "train.log"
    log.write_text("step 10/260\nTrainingError: the loss is not finite: lower train.learning_rate.\n")
    stages = [{"stage": "train_model", "output": str(folder / "none"), "log": str(log)}]
    found = {"run": "one", "id": "lora-1", "folder": str(folder / "run"), "stages": stages}
    attempt = gather_unfinished_run(found, private, "snakemake --cores 8 train")
    assert attempt is not None
    return render_unfinished(attempt)
