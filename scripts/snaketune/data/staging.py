"""Where a source is read from: its own place, a verified copy on scratch, or the text that snaketune carries.

Copies are no outputs of the workflow. They are named by content, so a node without one, or a wiped scratch, costs
a copy and nothing else. A source that lies on the scratch folder's disk already is not copied; a hard link would gain
nothing over that.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash
from tqdm import tqdm

from snaketune.common.atomic import write_json, writing
from snaketune.common.canonical import read_json
from snaketune.common.digests import file_digest
from snaketune.common.errors import DataError
from snaketune.common.locks import wait_for_lock
from snaketune.data.copying import Copied, copy_verified
from snaketune.data.disks import AUTO, Candidate, Disks, existing, forget, read_rate
from snaketune.data.quickstart import quickstart_lines
from snaketune.data.sources import changed, open_source

BUILTIN = {"builtin:quickstart": quickstart_lines}
# A copy is read once or twice more, so another local disk must be this much faster to be worth it.
WORTH = 2.0


@dataclass(frozen=True, slots=True)
class Source:
    """A source as the user named it, its size in bytes and its content digest (XXH3-128)."""

    path: str
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Staged:
    """Where a source is read from and how it came there; rates are measured, in bytes per second.

    Attributes:
        how: ``in place``, ``copy``, ``reflink``, ``found`` (an earlier copy) or ``generated``.
        resumed: bytes that an interrupted copy had left.
        read_before: rate of reading the original; ``read_after`` of reading the place. None where not measured.
    """

    place: Path
    how: str
    resumed: int = 0
    read_before: float | None = None
    read_after: float | None = None


def stage_sources(
    entries: Iterable[dict[str, Any]],
    scratch: str | Path | None,
    work: str | Path = "work",
    disks: Disks | None = None,
) -> list[Source]:
    """Describe every source, verify its content and, with a scratch folder, copy it there.

    What was done and the measured rates go to ``staging.json`` in ``work``, which belongs to no manifest.

    Args:
        entries: ``{path, digest}`` as the workflow found them when it started.
        scratch: folder on a fast disk, ``auto`` for the fastest local one, None to read sources where they are.
        work: private folder of the workflow, for the built-in data.
        disks: the machine's.

    Raises:
        DataError: if a source cannot be used, changed meanwhile, or does not fit on scratch.
    """
    disks = disks or Disks()
    sources = [_describe(entry["path"], entry["digest"]) for entry in entries]
    folders = _choose_folders(sources, scratch, disks)
    staged = [_stage(source, folder, work) for source, folder in zip(sources, folders, strict=True)]
    for index, (source, found) in enumerate(zip(sources, staged, strict=True)):
        if found.how == "in place":
            if (rate := _rate_if_intact(source, found.place)) is None:
                raise changed(source.path)
            staged[index] = Staged(found.place, found.how, 0, rate, rate)
    _note(Path(work), sources, staged)
    return sources


def facts_of(sources: Iterable[Source]) -> dict[str, Any]:
    """Return the content of stage.json."""
    return {"sources": [asdict(source) for source in sources]}


def sources_of(facts: dict[str, Any]) -> list[Source]:
    """Return the sources that stage.json lists."""
    return [Source(**entry) for entry in facts["sources"]]


def ensure_staged(
    sources: Sequence[Source], scratch: str | Path | None, work: str | Path = "work", disks: Disks | None = None
) -> list[Path]:
    """Return a place to read each source from, copying or generating it first where that is needed.

    May be called on any node and again after any restart. The content of a copy was just verified.

    Raises:
        DataError: if a source cannot be used, changed meanwhile, or does not fit on scratch.
    """
    folders = _choose_folders(sources, scratch, disks or Disks())
    return [_stage(source, folder, work).place for source, folder in zip(sources, folders, strict=True)]


def _describe(path: str, digest: str) -> Source:
    if path not in BUILTIN:
        with open_source(path):
            return Source(path, Path(path).stat().st_size, digest)
    size, state = 0, xxhash.xxh3_128()
    for line in BUILTIN[path]():
        size += len(line)
        state.update(line)
    return Source(path, size, state.hexdigest())


def _choose_folders(sources: Sequence[Source], scratch: str | Path | None, disks: Disks) -> list[Path | None]:
    """Return for each source the folder to copy it to, None where it is read in place.

    Raises:
        DataError: if there is not enough room.
    """
    if not scratch:
        return [None] * len(sources)
    if scratch == AUTO:
        return _choose_automatically(sources, disks)
    folder = Path(scratch)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"paths.scratch: {folder} is a file: name a folder, or set it to null.")
    device = disks.find(folder).device
    folders = [None if _is_on(source, device, disks) else folder for source in sources]
    needed = sum(_missing(source, folder) for source, chosen in zip(sources, folders, strict=True) if chosen)
    if needed > disks.free(folder):
        raise DataError(
            f"paths.scratch: {existing(folder)} has {disks.free(folder) / 1e9:.2f} GB free and the copies need"
            f" {needed / 1e9:.2f} GB: free space there, choose another disk, or set it to null to read the sources"
            " where they are."
        )
    return list(folders)


def _choose_automatically(sources: Sequence[Source], disks: Disks) -> list[Path | None]:
    places = {source.path: disks.find(source.path) for source in sources if source.path not in BUILTIN}
    devices = {candidate.disk.device for candidate in disks.candidates()}
    if all(disk.is_local and devices <= {disk.device} for disk in places.values()):
        return [None] * len(sources)

    def needed(candidate: Candidate) -> int:
        away = (source for source in sources if source.path in places)
        return sum(_missing(s, candidate.folder) for s in away if not _is_on(s, candidate.disk.device, disks))

    best = disks.fastest(needed)
    rates: dict[int, float] = {}

    def is_worth_it(source: Source) -> bool:
        disk = places.get(source.path)
        if disk is None or _is_on(source, best.disk.device, disks):
            return False
        if not disk.is_local or not _missing(source, best.folder):
            return True
        if disk.device not in rates:
            rates[disk.device] = read_rate(source.path)
        return disks.speed(best.folder).read > WORTH * rates[disk.device]

    return [best.folder if is_worth_it(source) else None for source in sources]


def _is_on(source: Source, device: int, disks: Disks) -> bool:
    """Tell whether a source is a file on the given device; one that is gone lives on in its copies."""
    return source.path not in BUILTIN and Path(source.path).exists() and disks.find(source.path).device == device


def _missing(source: Source, folder: Path) -> int:
    """Return the bytes that a folder lacks of a source."""
    copy = _copy_of(source, folder)
    return 0 if copy.is_file() and copy.stat().st_size == source.bytes else source.bytes


def _copy_of(source: Source, folder: Path) -> Path:
    name = source.path.replace(":", "-") + ".jsonl" if source.path in BUILTIN else Path(source.path).name
    return folder / source.digest / name


def _stage(source: Source, folder: Path | None, work: str | Path) -> Staged:
    if source.path in BUILTIN:
        folder = folder or Path(work) / "builtin"
        return _ensure(source, _copy_of(source, folder), _generate)
    if folder is None:
        open_source(source.path).close()
        return Staged(Path(source.path), "in place")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return _ensure(source, _copy_of(source, folder), _copy)


def _ensure(source: Source, target: Path, make: Callable[[Source, Path], Copied]) -> Staged:
    """Put the content of ``source`` at ``target`` unless it is there; one process at a time."""
    if _is_verified(source, target):
        return Staged(target, "found")
    with wait_for_lock(target.parent / ".lock"):
        if _is_verified(source, target):
            return Staged(target, "found")
        made = make(source, target)
    if (rate := _rate_if_intact(source, target)) is None:
        target.unlink()
        raise DataError(f"{target} does not give back what was written to it: choose another disk for paths.scratch.")
    return Staged(target, made.how, made.resumed, made.read, rate)


def _is_verified(source: Source, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == source.bytes and file_digest(target) == source.digest


def _generate(source: Source, target: Path) -> Copied:
    with writing(target) as file:
        file.writelines(BUILTIN[source.path]())
    return Copied("generated", 0, None)


def _copy(source: Source, target: Path) -> Copied:
    with progress_bar(source.bytes, f"staging {target.name}") as bar:
        return copy_verified(source.path, target, source.digest, bar.update)


def _rate_if_intact(source: Source, place: Path) -> float | None:
    """Read a place from its disk; return the rate in bytes per second, or None for another content."""
    with open(place, "rb") as file:
        forget(file.fileno())
    start = time.perf_counter()
    intact = file_digest(place) == source.digest
    return source.bytes / max(time.perf_counter() - start, 1e-9) if intact else None


def _note(work: Path, sources: Sequence[Source], staged: Sequence[Staged]) -> None:
    """Add what is known of these sources to ``staging.json``; other data have their own entries there."""
    path = work / "staging.json"
    with wait_for_lock(work / "staging.lock"):
        known = read_json(path) if path.exists() else {}
        for source, found in zip(sources, staged, strict=True):
            entry = _entry(source, found)
            if found.how != "found" or known.get(source.path, {}).get("place") != entry["place"]:
                known[source.path] = entry
        write_json(path, known)


def _entry(source: Source, found: Staged) -> dict[str, Any]:
    rates = {"read_before": found.read_before, "read_after": found.read_after}
    return {
        "bytes": source.bytes,
        "place": str(found.place),
        "how": found.how,
        "resumed_bytes": found.resumed,
        **{f"{name}_mb_per_s": rate and round(rate / 1e6, 1) for name, rate in rates.items()},
    }


def progress_bar(total: int, label: str) -> tqdm:
    """Return a progress bar in bytes that says nothing when the output is no terminal."""
    return tqdm(total=total, unit="B", unit_scale=True, desc=label, mininterval=1.0, disable=None, leave=False)
