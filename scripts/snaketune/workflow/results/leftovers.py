"""Leftovers of killed jobs: partial files and folders whose process is gone."""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from snaketune.core.atomic import remove_tree
from snaketune.core.errors import SnaketuneError, say
from snaketune.core.locks import try_lock
from snaketune.core.processes import is_gone, this_place

# As `snaketune.core.atomic.sibling` names them; earlier versions had the pid alone.
PARTIAL = re.compile(r"^\..+\.partial-(?:(?P<place>.+)-)?(?P<pid>\d+)$")
# Leftovers of another host count as abandoned when nothing was written to them for a day, in seconds.
ABANDONED_SECONDS = 86_400.0
# Partial files are beside outputs, and those are at most this many folders below `results` or `work`.
DEPTH = 5
# What a shard makes: a file, or a folder.
SHARD = re.compile(r"\d+-of-\d+(?:\.part)?")


def find_leftovers(folders: list[str | Path], now: float | None = None) -> list[Path]:
    """Return partial files and folders below ``folders`` that no process is writing, sorted.

    Args:
        folders: where to look.
        now: seconds since the epoch, for tests.
    """
    now = time.time() if now is None else now
    found = (path for folder in folders for path in _partials(Path(folder), DEPTH))
    return sorted(path for path in found if _is_left(path, now))


def find_unsealed(work: str | Path) -> list[Path]:
    """Return unfinished checkpoints of killed trainings in ``work/runs``, unless the training is running."""
    found = sorted(Path(work).glob("runs/*/.partial"))
    return [path for path in found if any(path.iterdir()) and _is_free(path.parent / "lock")]


def drop_shard_files(folders: Iterable[Path]) -> None:
    """Remove shard files of finished stages, whose workflow was killed before it removed them.

    Args:
        folders: of results in use, after a workflow that ended well: no job reads shards any more.
    """
    for folder in folders:
        if not (folder / "manifest.json").is_file():
            continue
        for path in [path for path in folder.glob("*/*-of-*") if SHARD.fullmatch(path.name)]:
            with suppress(OSError):  # its folder is kept as long as something else is in it
                remove_tree(path)
                path.parent.rmdir()


def find_on_scratch(scratch: str | Path, now: float | None = None) -> list[Path]:
    """Return the temporary folders that killed data stages left in a scratch folder, which others use, too."""
    now = time.time() if now is None else now
    return sorted(path for path in Path(scratch).glob(".*_records-*.partial-*") if _is_left(path, now))


def sweep(results: str | Path, work: str | Path, scratch: str | Path | None = None) -> None:
    """Remove leftovers of killed jobs, and print their size."""
    left = find_leftovers([results, work]) + find_unsealed(work) + (find_on_scratch(scratch) if scratch else [])
    size = sum(map(size_of, left))
    for path in left:
        with suppress(OSError):
            remove_tree(path)
    gone = [path for path in left if not path.exists() and not path.is_symlink()]
    if gone:
        say(f"removed leftovers of killed jobs: {len(gone)} partial results, {size / 1e6:,.1f} MB.")


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; files that vanish meanwhile count as 0."""
    total = 0
    for file in (path, *path.rglob("*")):
        with suppress(OSError):
            total += file.stat(follow_symlinks=False).st_size if file.is_symlink() or file.is_file() else 0
    return total


def _partials(folder: Path, depth: int) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if PARTIAL.match(entry.name):
                yield Path(entry.path)
            elif depth > 1 and entry.is_dir(follow_symlinks=False):
                yield from _partials(Path(entry.path), depth - 1)


def _is_left(path: Path, now: float) -> bool:
    match = PARTIAL.match(path.name)
    assert match, path
    gone = is_gone(match["place"] or this_place(), int(match["pid"]))
    return now - _newest(path) > ABANDONED_SECONDS if gone is None else gone


def _newest(path: Path) -> float:
    times = [0.0]
    for file in (path, *path.rglob("*")):
        with suppress(OSError):
            times.append(file.stat(follow_symlinks=False).st_mtime)
    return max(times)


def _is_free(lock: Path) -> bool:
    if not lock.exists():
        return True
    try:
        held, _ = try_lock(lock)
    except (OSError, SnaketuneError):
        return False
    if held is None:
        return False
    held.close()
    return True
