"""The facts of one realistic small run, for the tests of the report."""

import dataclasses
from pathlib import Path
from typing import Any

from snaketune.facts.evaluation_facts import EVALUATION, Evaluation
from snaketune.facts.of_run import FACT_FILES
from snaketune.facts.shapes import shaped
from snaketune.report.report_facts import RunPageFacts, load_facts

FOLDER = Path(__file__).parent.parent / "golden" / "report" / "facts"
FILES = {
    "run": "run.json",
    "reading": "read_records.manifest.json",
    "dedupe": "dedupe_records.manifest.json",
    "split": "split_records.manifest.json",
    "tokens": "tokenize_records.manifest.json",
    "pack": "pack_rows.manifest.json",
    "quarantine": "quarantine.jsonl",
    "duplicates": "duplicates.jsonl",
    "rightsize": "rightsize.json",
    "metrics": "metrics.jsonl",
    "evaluation": "evaluation.json",
    "generations": "generations.jsonl",
    "adapter": "adapter.manifest.json",
    "merged": "merge.json",
    "plan": "plan.json",
    "info": "run_info.json",
    "leaks": "leaks.jsonl",
    "history": "history.json",
}


def fact_paths(folder: Path = FOLDER) -> dict[str, str]:
    return {name: str(folder / file) for name, file in FILES.items()}


def facts_with(**changes: Any) -> RunPageFacts:
    """The facts of the golden run with some fields replaced, completed as when they are read."""
    return replaced(load_facts(fact_paths()), **changes)


def replaced(facts: RunPageFacts, **changes: Any) -> RunPageFacts:
    """Facts with some fields replaced, completed as when they are read."""
    if "run" in changes:
        changes["run"] = {key: facts.run[key] for key in ("run", "id", "fingerprint")} | changes["run"]
    if changes.get("plan") and facts.plan:
        device = facts.plan["device"] | changes["plan"].get("device", {})
        changes["plan"] = facts.plan | changes["plan"] | {"device": device}
    read = {
        name: shaped(value, FACT_FILES[name].kind) if name in FACT_FILES and value is not None else value
        for name, value in changes.items()
    }
    return dataclasses.replace(facts, **read)


def evaluation_of(value: dict[str, Any]) -> Evaluation:
    """An evaluation, completed as when it is read."""
    return shaped(value, EVALUATION.kind)
