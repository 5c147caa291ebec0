"""The page that compares runs: a pure function of their fact files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snaketune.facts.evaluation_facts import score
from snaketune.report import units
from snaketune.report.compare.comparison import (
    RunFacts,
    changed_settings,
    hours,
    labels,
    load_run,
    training_seconds,
)
from snaketune.report.compare.comparison_charts import comparison_charts
from snaketune.report.compare.comparison_verdict import comparison_verdict
from snaketune.report.compare.ranking import Pairs, compared_measures
from snaketune.report.filling import fill
from snaketune.report.text import excerpt

COMPARED_FILES = ("run.json", "evaluation.json", "adapter.manifest.json", "run_info.json", "metrics.jsonl")


def render_comparison(runs: Sequence[RunFacts], everything: Sequence[RunFacts], page_folder: Path) -> str:
    """Return the comparison as one self-contained HTML page.

    Args:
        runs: the runs to compare, in this order.
        everything: all runs of the results, for the table at the end.
        page_folder: folder of the page; links to reports are relative to it.
    """
    pairs = Pairs(runs)
    return fill(
        "compare.html.j2",
        names=labels(runs),
        verdict=comparison_verdict(runs, pairs),
        differences=changed_settings(runs),
        measures=compared_measures(runs, pairs),
        warnings=warnings(runs),
        charts=comparison_charts(runs),
        leaderboard=[leader(run, page_folder) for run in sorted(everything, key=rank)],
    )


def warnings(runs: Sequence[RunFacts]) -> list[str]:
    """Return notes on why some numbers of these runs are not comparable."""
    found = []
    if len({run.run["digests"].get("data") for run in runs}) > 1:
        found.append("The runs were not trained and evaluated on the same data: their losses do not compare directly.")
    if len({run.run["digests"].get("tokenizer") for run in runs}) > 1:
        found.append("The tokenizers differ: compare bits per byte instead of loss and perplexity.")
    hosts = {(run.info["machine"]["host"], run.info["machine"]["gpu"]["name"]) for run in runs}
    if len(hosts) > 1:
        found.append(
            "The runs were trained on different machines: times, throughput and memory do not compare directly."
        )
    if any(run.info["resumed_from_step"] for run in runs):
        found.append(
            "A run was interrupted and resumed; its time is left out because its clock saw only the last part."
        )
    return found + [
        f"{label} has no merged model, because its merge was refused or failed: latency and disk space are those of "
        "its adapter. Its report has the reason."
        for label, run in zip(labels(runs), runs, strict=True)
        if is_refused(run)
    ]


def is_refused(run: RunFacts) -> bool:
    """Tell whether a run was to be merged and has no merged model."""
    wanted = run.run["config"].get("merge.enabled")
    return bool(wanted and wanted["value"]) and not run.run["digests"].get("merged")


def find_runs(results: Path) -> list[RunFacts]:
    """Return the finished runs below ``results`` in a fixed order; one that lacks a fact file is not finished."""
    folders = sorted(path.parent for path in (results / "runs").glob("*/*/run.json") if not path.parent.is_symlink())
    return [load_run(folder) for folder in folders if all((folder / name).is_file() for name in COMPARED_FILES)]


def rank(run: RunFacts) -> tuple[float, str, str]:
    """Return the sort key of a run in the table of all runs: by held-out loss, runs without one last."""
    loss = score(run.evaluation["tuned"], "loss")
    return (float("inf") if loss is None else loss, run.name, run.folder.name)


def leader(run: RunFacts, page_folder: Path) -> dict[str, Any]:
    """Return a line of the table of all runs."""
    report = run.folder / "report.html"
    return {
        "run": excerpt(run.name, 60).text,
        "id": excerpt(run.folder.name, 60).text,
        "link": report.relative_to(page_folder).as_posix() if _can_be_linked(report, page_folder) else "",
        "model": excerpt(base_model(run), 60).text,
        "data": str(run.run["digests"].get("data") or units.NOT_MEASURED)[:12],
        "loss": units.plain(score(run.evaluation["tuned"], "loss")),
        "exact_match": units.percent(score(run.evaluation["tuned"], "exact_match")),
        "time": hours(training_seconds(run)),
        "finished": str(run.info["train"]["finished"] or units.NOT_MEASURED)[:16].replace("T", " "),
    }


def _can_be_linked(report: Path, page_folder: Path) -> bool:
    return report.is_file() and report.is_relative_to(page_folder)


def base_model(run: RunFacts) -> str:
    """Return the base model that the configuration names; its keys hold dots."""
    entry = run.run["config"].get("model.name_or_path")
    return str((entry and entry["value"]) or units.NOT_MEASURED)
