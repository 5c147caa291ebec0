"""Disks: the disk of a folder, which disks are local, their throughput, and the best one for copies."""

import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from snaketune.core.cached_state import read_state, write_state
from snaketune.core.errors import DataError

# File systems of local disks. Any other, known or not, may be on a network or in memory.
LOCAL = {
    *("apfs", "bcachefs", "btrfs", "ecryptfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "ntfs3"),
    *("overlay", "reiserfs", "ufs", "vfat", "xfs", "zfs"),
}
NAMED_PLACES = ("SLURM_TMPDIR", "TMPDIR")  # in the environment
USUAL_PLACES = ("/tmp", "/scratch", "/mnt/nvme*", "/local*")
ANY_DISK = "auto"
TRIAL_BYTES = 64 << 20
PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted filesystem: the device number that its files share and its type."""

    device: int
    kind: str

    @property
    def is_local(self) -> bool:
        """Whether it is certainly a disk of this machine."""
        return self.kind in LOCAL


@dataclass(frozen=True, slots=True)
class DiskSpeed:
    """Measured throughput in bytes per second."""

    write: float
    read: float


@dataclass(frozen=True, slots=True)
class CopyFolder:
    """A folder for copies, its disk, and the free bytes there."""

    folder: Path
    disk: Disk
    free: int


def _is_speed(entry: object) -> bool:
    return isinstance(entry, dict) and set(entry) == {"write", "read"}


def disk_of(path: str | Path, mounts: str | Path = "/proc/mounts") -> Disk:
    """Return the disk of a path, or of its nearest existing parent."""
    place = existing(path).resolve()
    kind, length = "unknown", -1
    for line in Path(mounts).read_text(encoding="utf-8").splitlines() if Path(mounts).exists() else ():
        _, point, found = line.split()[:3]
        # /proc/mounts escapes spaces in octal. The longest matching mount point wins; of equal ones the last, which
        # hides the others.
        point = point.replace("\\040", " ")
        if place.is_relative_to(point) and len(point) >= length:
            kind, length = found, len(point)
    return Disk(place.stat().st_dev, kind)


def existing(path: str | Path) -> Path:
    """Return ``path`` or its nearest parent that exists."""
    return next(place for place in (Path(path), *Path(path).absolute().parents) if place.exists())


def writable_bytes(path: str | Path) -> int:
    """Return the bytes that this user can still write to the disk of a path."""
    status = os.statvfs(existing(path))
    return status.f_bavail * status.f_frsize


def usual_folders(first: Iterable[str | None], work: str | Path) -> list[Path]:
    """Return a private folder in each place where a fast disk is likely, whether or not it can be used.

    Args:
        first: places named by the environment, such as TMPDIR.
        work: private folder of the workflow, whose disk is a candidate as well.
    """
    named = [Path(place) for place in first if place]
    usual = [place for pattern in USUAL_PLACES for place in sorted(Path("/").glob(pattern[1:]))]
    return [*(place / f"snaketune-{os.getuid()}" for place in (*named, *usual)), Path(work) / "scratch"]


def is_ours(folder: Path) -> bool:
    """Return whether ``folder`` is, or can be made, this user's own: other users can write to /tmp as well."""
    if not folder.is_symlink() and folder.is_dir():
        return folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK | os.X_OK)
    above = existing(folder)
    return not os.path.lexists(folder) and above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def measure_disk(folder: Path) -> DiskSpeed:
    """Write 64 MiB to a folder, flushed to the disk, read them back from it, and return both rates."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    trial = folder / f".trial-{os.getpid()}"
    # Random bytes: some file systems compress, and zeros would measure the compression.
    piece = random.Random(0).randbytes(PIECE_BYTES)
    try:
        trial.unlink(missing_ok=True)
        with open(trial, "xb", buffering=0) as file:
            start = time.perf_counter()
            for _ in range(TRIAL_BYTES // PIECE_BYTES):
                file.write(piece)
            os.fsync(file.fileno())
            write = TRIAL_BYTES / (time.perf_counter() - start)
        return DiskSpeed(write, read_rate(trial))
    finally:
        trial.unlink(missing_ok=True)


def read_rate(path: str | Path, most: int = TRIAL_BYTES) -> float:
    """Return the throughput, in bytes per second, of reading the beginning of a file from its disk."""
    with open(path, "rb", buffering=0) as file:
        forget(file.fileno())
        buffer, size, start = bytearray(PIECE_BYTES), 0, time.perf_counter()
        while size < most and (got := file.readinto(buffer)):
            size += got
        return size / max(time.perf_counter() - start, 1e-9)


def forget(descriptor: int) -> None:
    """Ask the system to drop a file from the page cache, so that the next read comes from the disk."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class Disks:
    """The disks of this machine; measurements are cached in a file, since each takes about a second.

    Args:
        folders: possible folders for copies, see :func:`usual_folders`.
        cache: JSON file of the rates by host and folder.
        find: returns the disk of a path; ``measure`` returns the rates of a folder, ``free`` its free bytes.
    """

    def __init__(
        self,
        folders: Iterable[Path] = (),
        cache: str | Path = "work/disks.json",
        find: Callable[[str | Path], Disk] = disk_of,
        measure: Callable[[Path], DiskSpeed] = measure_disk,
        free: Callable[[str | Path], int] = writable_bytes,
    ):
        self._folders, self._cache = tuple(folders), Path(cache)
        self.find, self.free = find, free
        self._measure = measure

    @classmethod
    def of(cls, environment: Mapping[str, str], work: str | Path) -> "Disks":
        """Return the disks of this machine for a workflow with this environment and private folder."""
        named = [environment.get(name) for name in NAMED_PLACES]
        return cls(usual_folders(named, work), Path(work) / "disks.json")

    def candidates(self) -> list[CopyFolder]:
        """Return one folder for each writable local disk."""
        found: dict[int, CopyFolder] = {}
        for folder in self._folders:
            disk = self.find(folder)
            # One folder per device: several usual places are often on the same disk.
            if disk.is_local and disk.device not in found and is_ours(folder):
                found[disk.device] = CopyFolder(folder, disk, self.free(folder))
        return list(found.values())

    def speed(self, folder: Path) -> DiskSpeed:
        """Return the rates of a folder, measured once per host."""
        known = read_state(self._cache, _is_speed)
        # The work folder may be shared by nodes with different disks under the same path.
        key = f"{socket.gethostname()}: {folder.absolute()} on {self.find(folder).device}"
        if key not in known:
            known[key] = {name: round(rate) for name, rate in asdict(self._measure(folder)).items()}
            write_state(self._cache, known)
        return DiskSpeed(**known[key])

    def fastest(self, needed: Callable[[CopyFolder], int]) -> CopyFolder:
        """Return the local disk with the fastest reads among those with room for the ``needed`` bytes.

        Raises:
            DataError: if there is no local disk, or none with enough room.
        """
        local = self.candidates()
        if not local:
            tried = ", ".join(map(str, self._folders)) or "nowhere"
            raise DataError(
                f"paths.scratch: auto finds no writable local disk (tried {tried}): name a folder, or set"
                " it to null to read the sources in place."
            )
        roomy = [candidate for candidate in local if candidate.free >= needed(candidate)]
        if not roomy:
            raise DataError(
                f"paths.scratch: auto finds no local disk with enough room, {_need_of_room(local, needed)}."
            )
        # By reading: copies are written once and read by several stages.
        return max(roomy, key=lambda candidate: self.speed(candidate.folder).read)


def temporary_place(scratch: str | Path | None, work: str | Path, name: str, disks: Disks, needed: int = 0) -> Path:
    """Return a folder for a stage's temporary files that no other workflow uses.

    Args:
        scratch: ``paths.scratch``: a folder, ``auto`` for the fastest local disk with room, or None for ``work``.
        work: private folder of the workflow; also used if ``auto`` finds nothing better.
        name: name of the stage and its variant.
        disks: the disks of this machine.
        needed: approximate number of bytes to be written.
    """
    if not scratch:
        return Path(work) / name
    folder = Path(scratch)
    if scratch == ANY_DISK:
        roomy = [candidate for candidate in disks.candidates() if candidate.free >= needed]
        if not roomy or {candidate.disk for candidate in roomy} == {disks.find(work)}:
            return Path(work) / name
        folder = disks.fastest(lambda _: needed).folder
    # Other workflows may use the same scratch folder for stages of the same name.
    owner = xxhash.xxh3_64_hexdigest(os.fsencode(Path(work).resolve()))
    return folder / f"{name}-{owner}"


def _need_of_room(local: Sequence[CopyFolder], needed: Callable[[CopyFolder], int]) -> str:
    places = "; ".join(
        f"{place.folder} has {place.free / 1e9:.2f} GB free and the copies need {needed(place) / 1e9:.2f} GB"
        for place in local
    )
    return f"{places}: free space there, or set it to null to read the sources in place"
