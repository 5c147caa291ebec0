"""The facts of one realistic small run, for the tests of the report."""

import dataclasses
from pathlib import Path
from typing import Any

from snaketune.report.facts import Facts, load_facts

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


def facts_with(**changes: Any) -> Facts:
    """The facts of the golden run with some fields replaced."""
    return dataclasses.replace(load_facts(fact_paths()), **changes)
