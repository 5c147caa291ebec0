"""Adopts results without a record of what their jobs wrote, as when ``work`` was removed or not copied along."""

from pathlib import Path

import orjson

from snaketune.core.outputs import MOST_KEPT_BYTES, has_record, record_outputs
from snaketune.workflow.stage_table import TABLE

# The small files that one job writes beside each other, as the scripts name them in ``facts``.
GROUPS = tuple(dict.fromkeys(group for stage in TABLE for group in stage.groups()))


def adopt_outputs(folder: Path, work: str | Path = "work") -> None:
    """Record the files of a variant or run that have no record.

    A readable file is trusted as found; later changes to it are detected.
    """
    for names in GROUPS:
        paths = [folder / name for name in names]
        if any(path.is_file() and not has_record(path, work) for path in paths) and all(map(_is_readable, paths)):
            record_outputs(paths, work)


def _is_readable(path: Path) -> bool:
    """Tell whether a file, if it exists, has the format that its name implies."""
    if not path.is_file() or path.suffix not in (".json", ".jsonl") or path.stat().st_size > MOST_KEPT_BYTES:
        return True
    content = path.read_bytes()
    try:
        for text in content.splitlines() if path.suffix == ".jsonl" else [content]:
            orjson.loads(text)
    except ValueError:
        return False
    return True
