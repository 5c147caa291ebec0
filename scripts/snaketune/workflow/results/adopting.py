"""Results without a record of what their jobs wrote: ``work`` was removed, or not copied with them."""

from pathlib import Path

import orjson

from snaketune.core.outputs import MOST_KEPT_BYTES, has_record, record_outputs

# The small files that one job writes beside each other, as the scripts name them in ``facts``.
GROUPS = (
    ("manifest.json", "stage.json"),
    ("rightsize.json",),
    ("plan.json",),
    ("plan.html",),
    ("probe.json",),
    ("ablate.json",),
    ("ablate.html",),
    ("adapter.manifest.json", "metrics.jsonl", "run_info.json"),
    ("documents.jsonl", "evaluation.json", "evaluation_info.json", "generations.jsonl"),
    ("merge.json",),
    ("merged.manifest.json",),
    ("history.json", "run.json"),
    ("facts.json", "report.html"),
    ("adapter_card.md",),
    ("merged_card.md",),
    ("compare.html",),
)


def adopt_outputs(folder: Path, work: str | Path = "work") -> None:
    """Remember what is in the folder of a variant or a run and has no record.

    A file that can be read is believed as it is found; from now on a change of it is noticed.
    """
    for names in GROUPS:
        paths = [folder / name for name in names]
        if any(path.is_file() and not has_record(path, work) for path in paths) and all(map(_is_readable, paths)):
            record_outputs(paths, work)


def _is_readable(path: Path) -> bool:
    """Tell whether a file, if there is one, has the form that its name says."""
    if not path.is_file() or path.suffix not in (".json", ".jsonl") or path.stat().st_size > MOST_KEPT_BYTES:
        return True
    content = path.read_bytes()
    try:
        for text in content.splitlines() if path.suffix == ".jsonl" else [content]:
            orjson.loads(text)
    except ValueError:
        return False
    return True
