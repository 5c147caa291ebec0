"""Records of the small files that jobs wrote, kept in ``work/outputs``: an edit or damage is noticed and undone.

Bulk data have their digests in manifests; these records cover fact files and the manifests themselves. A record holds
the digest of a file and, unless it is too long, its content.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.atomic import write_bytes
from snaketune.core.cached_state import read_state, write_state
from snaketune.core.digests import file_digest

# Larger outputs are rebuilt instead.
MOST_KEPT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Output:
    """A file as its job wrote it.

    Attributes:
        path: the file.
        group: the names of all small files that the same job wrote beside it, including its own.
        digest: XXH3-128 of its content.
        mtime_ns: its modification time, in nanoseconds since the epoch.
        content: its text; None if it was too long to be kept.
    """

    path: Path
    group: tuple[str, ...]
    digest: str
    mtime_ns: int
    content: str | None


def record_outputs(paths: Iterable[Path], work: str | Path = "work") -> None:
    """Record small files that a job has just written into one folder."""
    paths = [path for path in paths if path.is_file()]
    group = sorted(path.name for path in paths)
    for path in paths:
        _record(path, group, work)


def _record(path: Path, group: Iterable[str], work: str | Path) -> None:
    facts: dict[str, Any] = {"group": [*group], "digest": file_digest(path), "mtime_ns": path.stat().st_mtime_ns}
    write_state(_record_of(path, work), {path.name: {**facts, "content": _text_of(path)}})


def forget_outputs(paths: Iterable[Path], work: str | Path = "work") -> None:
    """Drop the records of files that a job is about to write."""
    for path in paths:
        _record_of(path, work).unlink(missing_ok=True)


def changed_outputs(folder: Path, work: str | Path = "work", verify: bool = False) -> list[Output]:
    """Return the recorded outputs in ``folder`` that are missing or have changed.

    Args:
        folder: the folder of a variant or a run.
        work: where the records are.
        verify: read every file; otherwise only those whose ctime is not older than the record, which was written
            last. Both may have the same time, which kernels advance in steps of some milliseconds.
    """
    found = []
    for record in sorted((Path(work) / "outputs" / _inside(folder)).glob("*.json")):
        path = folder / record.name.removesuffix(".json")
        try:
            # Of the path itself: a link that was put there may lead to something old.
            if not verify and path.lstat().st_ctime_ns < record.stat().st_mtime_ns:
                continue
            digest = file_digest(path)
        except OSError:
            # Missing or unreadable, which no recorded digest equals.
            digest = ""
        output = _read(path, record)
        if output and output.digest != digest:
            found.append(output)
    return found


def has_record(path: Path, work: str | Path = "work") -> bool:
    """Tell whether an output is recorded."""
    return _record_of(path, work).is_file()


def restore(output: Output, work: str | Path = "work") -> bool:
    """Restore the recorded content and time of a file, so that nothing reruns for it.

    False if the content was not kept.
    """
    if output.content is None:
        return False
    write_bytes(output.path, output.content.encode())
    # With its old time, or Snakemake would rerun everything that reads the file.
    os.utime(output.path, ns=(output.mtime_ns, output.mtime_ns))
    _record(output.path, output.group, work)
    return True


def _read(path: Path, record: Path) -> Output | None:
    entry = read_state(record, _is_entry).get(path.name)
    if entry is None:  # the record is damaged: trust the file
        record.unlink(missing_ok=True)
        return None
    return Output(path, tuple(entry["group"]), entry["digest"], entry["mtime_ns"], entry["content"])


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and set(entry) == {"group", "digest", "mtime_ns", "content"}


def _text_of(path: Path) -> str | None:
    if path.stat().st_size > MOST_KEPT_BYTES:
        return None
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return None


def _record_of(path: Path, work: str | Path) -> Path:
    return Path(work) / "outputs" / _inside(path.parent) / f"{path.name}.json"


def _inside(folder: Path) -> Path:
    """Return the folder that holds the records of ``folder``."""
    return Path(*(part for part in folder.parts if part not in ("/", "..")))
