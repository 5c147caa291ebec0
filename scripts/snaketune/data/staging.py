"""Where a source is read from: its own place, a verified copy on scratch, or the text that snaketune carries.

Copies are no outputs of the workflow. They are named by content, so a node without one, or a wiped scratch, costs
a copy and nothing else.
"""

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash
from tqdm import tqdm

from snaketune.common.atomic import writing
from snaketune.common.digests import CHUNK_BYTES, file_digest
from snaketune.common.errors import DataError
from snaketune.common.locks import wait_for_lock
from snaketune.data.quickstart import quickstart_lines
from snaketune.data.sources import HashedFile, changed, open_source

BUILTIN = {"builtin:quickstart": quickstart_lines}


@dataclass(frozen=True, slots=True)
class Source:
    """A source as the user named it, its size in bytes and its content digest (XXH3-128)."""

    path: str
    bytes: int
    digest: str


def stage_sources(
    entries: Iterable[dict[str, Any]], scratch: str | Path | None, work: str | Path = "work"
) -> list[Source]:
    """Describe every source, verify its content and, with a scratch folder, copy it there.

    Args:
        entries: ``{path, digest}`` as the workflow found them when it started.
        scratch: folder on a fast disk, or None to read sources where they are.
        work: private folder of the workflow, for the built-in data.

    Raises:
        DataError: if a source cannot be used, changed meanwhile, or does not fit on scratch.
    """
    sources = [_describe(entry["path"], entry["digest"]) for entry in entries]
    if scratch:
        _check_room(Path(scratch), sum(s.bytes for s in sources if not _copy_of(s, Path(scratch)).exists()))
    for source in sources:
        place = ensure_staged(source, scratch, work)
        if not scratch and file_digest(place) != source.digest:
            raise changed(source.path)
    return sources


def facts_of(sources: Iterable[Source]) -> dict[str, Any]:
    """Return the content of stage.json."""
    return {"sources": [asdict(source) for source in sources]}


def sources_of(facts: dict[str, Any]) -> list[Source]:
    """Return the sources that stage.json lists."""
    return [Source(**entry) for entry in facts["sources"]]


def ensure_staged(source: Source, scratch: str | Path | None, work: str | Path = "work") -> Path:
    """Return a place to read ``source`` from, copying or generating it first where that is needed.

    May be called on any node and again after any restart. With a scratch folder the content at the returned
    path was just verified.

    Raises:
        DataError: if the source cannot be used, changed meanwhile, or does not fit on scratch.
    """
    if source.path in BUILTIN:
        return _ensure(source, _copy_of(source, Path(scratch or Path(work) / "builtin")))
    if scratch:
        return _ensure(source, _copy_of(source, Path(scratch)))
    open_source(source.path).close()
    return Path(source.path)


def _describe(path: str, digest: str) -> Source:
    if path not in BUILTIN:
        with open_source(path):
            return Source(path, Path(path).stat().st_size, digest)
    size, state = 0, xxhash.xxh3_128()
    for line in BUILTIN[path]():
        size += len(line)
        state.update(line)
    return Source(path, size, state.hexdigest())


def _copy_of(source: Source, folder: Path) -> Path:
    name = source.path.replace(":", "-") + ".jsonl" if source.path in BUILTIN else Path(source.path).name
    return folder / source.digest / name


def _ensure(source: Source, target: Path) -> Path:
    """Put the content of ``source`` at ``target`` unless it is there; one process at a time."""
    if _is_verified(source, target):
        return target
    with wait_for_lock(target.parent / ".lock"):
        if _is_verified(source, target):
            return target
        for leftover in target.parent.glob(".*.partial-*"):
            leftover.unlink()
        _check_room(target.parent, source.bytes)
        _write(source, target)
    return target


def _is_verified(source: Source, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == source.bytes and file_digest(target) == source.digest


def _write(source: Source, target: Path) -> None:
    """Write ``source`` to ``target``, which appears there only if its content has the expected digest."""
    with writing(target) as copy:
        if source.path in BUILTIN:
            copy.writelines(BUILTIN[source.path]())
            copy.flush()
            digest = file_digest(copy.name)
        else:
            with progress_bar(source.bytes, f"staging {target.name}") as bar:
                original = HashedFile(open_source(source.path), bar.update)
                shutil.copyfileobj(original, copy, CHUNK_BYTES)
                digest = original.hexdigest()
                original.close()
        if digest != source.digest:
            raise changed(source.path)


def _check_room(folder: Path, needed: int) -> None:
    folder = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"paths.scratch: {folder} has {free / 1e9:.2f} GB free and the copies need {needed / 1e9:.2f} GB:"
            " free space there, choose another disk, or set it to null to read the sources where they are."
        )


def progress_bar(total: int, label: str) -> tqdm:
    """Return a progress bar in bytes that says nothing when the output is no terminal."""
    return tqdm(total=total, unit="B", unit_scale=True, desc=label, mininterval=1.0, disable=None, leave=False)
