"""Staging: each source is read in place, from a verified copy on scratch, or from the data built into snaketune.

Copies are not outputs of the workflow. They are named by content, so a node without one, or a wiped scratch folder,
costs a copy and nothing else. A source already on the scratch folder's disk is not copied.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from snaketune.core.atomic import write_json, writing
from snaketune.core.canonical import read_json
from snaketune.core.digests import file_digest
from snaketune.core.errors import DataError
from snaketune.core.locks import wait_for_lock
from snaketune.core.private_folders import PrivateFolder
from snaketune.data.sources import line_chunks
from snaketune.data.sources.pieces import Chunk
from snaketune.data.sources.source_files import changed, empty, open_source
from snaketune.storage.copy_targets import BUILTIN, NamedSource, choose_folders, copy_of
from snaketune.storage.copying import Copied, copy_verified
from snaketune.storage.disks import Disks, forget
from snaketune.storage.object_storage import is_remote
from snaketune.storage.remote_copies import KnownContents, fetch_known, fetch_unknown, object_of


@dataclass(frozen=True, slots=True)
class Staged:
    """Where a source is read from and how it got there.

    Attributes:
        how: ``in place``, ``copy``, ``reflink``, ``found`` (an earlier copy), ``generated`` or ``fetched``.
        resumed: bytes left by an interrupted copy.
        read_before, read_after: measured read throughput of the original and of the place, bytes per second, or None.
        chunks: the index of its lines, where it was made while the file was verified.
    """

    place: Path
    how: str
    resumed: int = 0
    read_before: float | None = None
    read_after: float | None = None
    chunks: tuple[Chunk, ...] = ()


def stage_sources(
    entries: Iterable[dict[str, Any]],
    scratch: str | Path | None,
    work: str | Path = "work",
    disks: Disks | None = None,
) -> list[NamedSource]:
    """Describe every source, verify its content and, with a scratch folder, copy it there.

    The actions and measured rates go to ``staging.json`` in ``work``, which is in no manifest: they differ by machine.

    Args:
        entries: ``{path, digest}`` as recorded when the workflow started, with ``bytes`` for objects.
        scratch: folder on a fast disk, ``auto`` for the fastest local disk, None to read sources in place.
        work: private folder of the workflow, for the built-in data and, without scratch, for objects.
        disks: the disks of this machine.

    Raises:
        DataError: if a source cannot be used, changed meanwhile, or does not fit on scratch.
    """
    entries, disks, contents = list(entries), disks or Disks(), KnownContents(work)
    described = [_describe(entry, contents) for entry in entries]
    sources, staged = [], []
    for entry, source, folder in zip(entries, described, choose_folders(described, scratch, work, disks), strict=True):
        if folder and is_remote(source.path):
            source, found = _stage_object(entry, source, folder, contents)
        else:
            found = _proven_in_place(source, _stage(source, folder, work))
        chunks = found.chunks or _chunks_of(source, found.place)
        sources.append(replace(source, options=entry.get("options", {}), part=entry.get("part", 0), chunks=chunks))
        staged.append(found)
    _note(Path(work), sources, staged)
    return sources


def ensure_staged(
    sources: Sequence[NamedSource], scratch: str | Path | None, work: str | Path = "work", disks: Disks | None = None
) -> list[Path]:
    """Return a verified place to read each source from, on any node; copy or generate it first if needed.

    Raises:
        DataError: if a source cannot be used, changed meanwhile, or does not fit on scratch.
    """
    folders = choose_folders(sources, scratch, work, disks or Disks())
    return [_stage(source, folder, work).place for source, folder in zip(sources, folders, strict=True)]


def ensure_near(
    folder: str | Path,
    files: Mapping[str, Mapping[str, Any]],
    scratch: str | Path | None,
    work: str | Path = "work",
    disks: Disks | None = None,
) -> dict[str, Path]:
    """Return local paths of an earlier stage's results, by name.

    With a scratch folder, results on a network file system are copied once to each node that uses them.

    Args:
        folder: folder of the earlier stage.
        files: ``{name: {bytes, digest}}`` of its manifest.
        scratch: as for :func:`ensure_staged`.
        work: likewise.
        disks: likewise.

    Raises:
        DataError: if a file changed, or the copies do not fit on scratch.
    """
    disks, places = disks or Disks(), {name: Path(folder) / name for name in files}
    if not scratch or disks.find(folder).is_local:
        return places
    sources = [NamedSource(str(places[name]), entry["bytes"], entry["digest"]) for name, entry in files.items()]
    return dict(zip(files, ensure_staged(sources, scratch, work, disks), strict=True))


def _describe(entry: Mapping[str, Any], contents: KnownContents) -> NamedSource:
    path, digest = entry["path"], entry["digest"]
    if is_remote(path):
        if not entry["bytes"]:
            raise empty(path)
        return NamedSource(path, entry["bytes"], contents.of(object_of(entry)))
    if path not in BUILTIN:
        with open_source(path):
            return NamedSource(path, Path(path).stat().st_size, digest)
    size, state = 0, xxhash.xxh3_128()
    for line in BUILTIN[path]():
        size += len(line)
        state.update(line)
    return NamedSource(path, size, state.hexdigest())


def _stage(source: NamedSource, folder: Path | None, work: str | Path) -> Staged:
    if source.path in BUILTIN:
        folder = folder or Path(work) / "builtin"
        return _ensure(source, copy_of(source, folder), _generate)
    if folder is None:
        open_source(source.path).close()
        return Staged(Path(source.path), "in place")
    _make_place(folder)
    return _ensure(source, copy_of(source, folder), _fetch if is_remote(source.path) else _copy)


def _make_place(folder: Path) -> None:
    """Create the folder for copies; inside a folder shared by all users it must belong to this user."""
    if folder.name == f"snaketune-{os.geteuid()}":
        with PrivateFolder(folder):
            return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _stage_object(
    entry: Mapping[str, Any], source: NamedSource, folder: Path, contents: KnownContents
) -> tuple[NamedSource, Staged]:
    """Fetch an object unless an earlier workflow's copy exists, and return it with its content digest."""
    target = copy_of(source, folder)
    if _is_verified(source, target):
        return source, Staged(target, "found")
    with progress_bar(source.bytes, f"fetching {target.name}") as bar:
        source, made = fetch_unknown(object_of(entry), folder, contents, bar.update)
    return source, _proven(source, copy_of(source, folder), made)


def _proven_in_place(source: NamedSource, found: Staged) -> Staged:
    """Verify that a source used in place still has the content that the workflow recorded."""
    if found.how != "in place":
        return found
    start = time.perf_counter()
    chunks = _chunks_of(source, found.place)
    seconds = max(time.perf_counter() - start, 1e-9)
    if (rate := source.bytes / seconds if chunks else _rate_if_intact(source, found.place)) is None:
        raise changed(source.path)
    return Staged(found.place, found.how, 0, rate, rate, chunks)


def _chunks_of(source: NamedSource, place: Path) -> tuple[Chunk, ...]:
    """Return the index of a source's lines, from its disk: this verifies the file if it has one."""
    if source.bytes <= line_chunks.CHUNK_BYTES:
        return ()
    with open(place, "rb") as file:
        forget(file.fileno())
    return tuple(line_chunks.chunks_of(source.path, place, source.bytes, source.digest))


def _ensure(source: NamedSource, target: Path, make: Callable[[NamedSource, Path], Copied]) -> Staged:
    """Put the content of ``source`` at ``target`` unless it is already there; one process at a time."""
    with PrivateFolder(target.parent):  # checks the owner before anything in the folder is trusted
        pass
    if _is_verified(source, target):
        return Staged(target, "found")
    with wait_for_lock(target.parent / ".lock", "copies the same source"):
        if _is_verified(source, target):
            return Staged(target, "found")
        made = make(source, target)
    return _proven(source, target, made)


def _proven(source: NamedSource, target: Path, made: Copied) -> Staged:
    """Verify a copy by reading it back from its disk."""
    if (rate := _rate_if_intact(source, target)) is None:
        target.unlink()
        raise DataError(f"{target} does not return the bytes written to it: choose another disk for paths.scratch.")
    return Staged(target, made.how, made.resumed, made.read, rate)


def _is_verified(source: NamedSource, target: Path) -> bool:
    return (
        not target.is_symlink()
        and target.is_file()
        and target.stat().st_size == source.bytes
        and file_digest(target) == source.digest
    )


def _generate(source: NamedSource, target: Path) -> Copied:
    with writing(target) as file:
        file.writelines(BUILTIN[source.path]())
    return Copied("generated", 0, None)


def _copy(source: NamedSource, target: Path) -> Copied:
    with progress_bar(source.bytes, f"staging {target.name}") as bar:
        return copy_verified(source.path, target, source.digest, bar.update)


def _fetch(source: NamedSource, target: Path) -> Copied:
    with progress_bar(source.bytes, f"fetching {target.name}") as bar:
        return fetch_known(source, target, target.parents[1], bar.update)


def _rate_if_intact(source: NamedSource, place: Path) -> float | None:
    """Read a file from its disk; return the throughput in bytes per second, or None if its content differs."""
    with open(place, "rb") as file:
        forget(file.fileno())
    start = time.perf_counter()
    intact = file_digest(place) == source.digest
    return source.bytes / max(time.perf_counter() - start, 1e-9) if intact else None


def _note(work: Path, sources: Sequence[NamedSource], staged: Sequence[Staged]) -> None:
    """Add entries of these sources to ``staging.json``, which other runs with other data share."""
    path = work / "staging.json"
    with wait_for_lock(work / "staging.lock", "records where its sources are"):
        known = _noted(path)
        for source, found in zip(sources, staged, strict=True):
            entry = _entry(source, found)
            if found.how != "found" or known.get(source.path, {}).get("place") != entry["place"]:
                known[source.path] = entry
        write_json(path, known)


def _noted(path: Path) -> dict[str, Any]:
    """Return earlier entries, or none if the file is damaged: they only inform the user."""
    try:
        known = read_json(path)
        return known if all(isinstance(entry, dict) for entry in known.values()) else {}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}


def _entry(source: NamedSource, found: Staged) -> dict[str, Any]:
    rates = {"read_before": found.read_before, "read_after": found.read_after}
    return {
        "bytes": source.bytes,
        "place": str(found.place),
        "how": found.how,
        "resumed_bytes": found.resumed,
        **{f"{name}_mb_per_s": rate and round(rate / 1e6, 1) for name, rate in rates.items()},
    }


def progress_bar(total: int, label: str) -> Any:
    """Return a progress bar in bytes, silent if stderr is not a terminal."""
    if not sys.stderr.isatty():
        return _NoBar()
    from tqdm import tqdm

    return tqdm(total=total, unit="B", unit_scale=True, desc=label, mininterval=1.0, leave=False)


class _NoBar:
    """A silent progress bar, which saves the import of tqdm, a tenth of a job's start-up time."""

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, size: int) -> None:
        """Ignore the number of bytes processed."""
