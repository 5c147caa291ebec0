"""The targets of copies: which sources are copied at all, to which disk, and whether the disk has enough room."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snaketune.core.atomic import LONGEST_NAME
from snaketune.core.errors import DataError
from snaketune.core.private_folders import own_place
from snaketune.data.quickstart import quickstart_lines
from snaketune.data.quickstart_preferences import label_lines, pair_lines
from snaketune.data.sources.pieces import Chunk
from snaketune.storage.disks import ANY_DISK, CopyFolder, Disk, Disks, existing, read_rate
from snaketune.storage.object_storage import is_remote

BUILTIN = {"builtin:quickstart": quickstart_lines, "builtin:pairs": pair_lines, "builtin:labels": label_lines}
# A copy is read only once or twice, so another local disk must be this many times faster to be worth copying to.
WORTH = 2.0
# Characters kept from the end of a name too long for a file: formats are recognised by the suffix.
LONGEST_SUFFIX = 20
# The place of objects, on no disk of this machine.
NETWORK = Disk(-1, "network")


@dataclass(frozen=True, slots=True)
class NamedSource:
    """A source as the user named it, its size in bytes and its content digest (XXH3-128).

    ``options`` are its own settings: name, format, columns, weight and max_records; ``part`` is the number of the
    configured source to which the file belongs; ``chunks`` is the index of a large file of lines.
    """

    path: str
    bytes: int
    digest: str
    options: dict[str, Any] = field(default_factory=dict)
    part: int = 0
    chunks: tuple[Chunk, ...] = ()


def choose_folders(
    sources: Sequence[NamedSource], scratch: str | Path | None, work: str | Path, disks: Disks
) -> list[Path | None]:
    """Return the folder to which each source is copied, None if it is read in place.

    Objects are always copied; without a scratch folder, to the private folder ``work``.

    Raises:
        DataError: if the disk has not enough room.
    """
    if scratch == ANY_DISK:
        return _choose_automatically(sources, disks)
    folder = own_place(Path(scratch)) if scratch else Path(work) / "sources"
    if folder.exists() and not folder.is_dir():
        raise DataError(f"paths.scratch: {folder} is a file: name a folder, or set it to null.")
    device = disks.find(folder).device
    stays = [not is_remote(source.path) and (not scratch or _is_on(source, device, disks)) for source in sources]
    needed = sum(_missing(source, folder) for source, here in zip(sources, stays, strict=True) if not here)
    if needed > disks.free(folder):
        without = "" if any(map(is_remote, _paths(sources))) else ", or set it to null to read the sources in place"
        raise DataError(
            f"paths.scratch: {existing(folder)} has {disks.free(folder) / 1e9:.2f} GB free and the copies need "
            f"{needed / 1e9:.2f} GB: free space there, or choose another disk{without}."
        )
    return [None if here else folder for here in stays]


def _choose_automatically(sources: Sequence[NamedSource], disks: Disks) -> list[Path | None]:
    places = {path: NETWORK if is_remote(path) else disks.find(path) for path in _paths(sources)}
    devices = {candidate.disk.device for candidate in disks.candidates()}
    if all(disk.is_local and devices <= {disk.device} for disk in places.values()):
        return [None] * len(sources)

    def needed(candidate: CopyFolder) -> int:
        away = (source for source in sources if source.path in places)
        return sum(_missing(s, candidate.folder) for s in away if not _is_on(s, candidate.disk.device, disks))

    best = disks.fastest(needed)
    rates: dict[int, float] = {}

    # Network file systems are slow to read repeatedly, so sources there are always copied; between local disks the
    # measured rates decide.
    def is_worth_it(source: NamedSource) -> bool:
        disk = places.get(source.path)
        if disk is None or _is_on(source, best.disk.device, disks):
            return False
        if not disk.is_local or not _missing(source, best.folder):
            return True
        if disk.device not in rates:
            rates[disk.device] = read_rate(source.path)
        return disks.speed(best.folder).read > WORTH * rates[disk.device]

    return [best.folder if is_worth_it(source) else None for source in sources]


def _is_on(source: NamedSource, device: int, disks: Disks) -> bool:
    """Return whether a source is a file on the given device; a deleted source can still be read from its copies."""
    if source.path in BUILTIN or is_remote(source.path):
        return False
    return Path(source.path).exists() and disks.find(source.path).device == device


def _paths(sources: Sequence[NamedSource]) -> list[str]:
    return [source.path for source in sources if source.path not in BUILTIN]


def _missing(source: NamedSource, folder: Path) -> int:
    """Return the number of bytes of a source that are missing in a folder."""
    copy = copy_of(source, folder)
    return 0 if copy.is_file() and copy.stat().st_size == source.bytes else source.bytes


def copy_of(source: NamedSource, folder: Path) -> Path:
    """Return the path of a source's copy, which contains the content digest."""
    name = source.path.replace(":", "-") + ".jsonl" if source.path in BUILTIN else Path(source.path).name
    if len(os.fsencode(name)) > LONGEST_NAME:  # an object's may be
        name = source.digest + name[-LONGEST_SUFFIX:]
    return folder / source.digest / name
