"""Checks that the workflow's folders are writable, before anything is computed."""

import errno
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from snaketune.core.atomic import LONGEST_NAME, remove_tree, sibling, sync_directory
from snaketune.core.errors import ConfigError

# Clocks of a machine and its file server differ by seconds; Snakemake tolerates less.
CLOCK_TOLERANCE = 60.0
# How many entries of a folder are examined for the newest one.
MOST_CHECKED_ENTRIES = 2000
# Folders of the workflow itself, and those where it, Snakemake and git keep their own files.
WORKFLOW_FOLDERS = {
    *("benchmarks", "config", "data", "docs", "envs", "logs", "profiles", "rules", "scripts", "tests", "work"),
    *(".git", ".snakemake", ".venv"),
}
VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def usable_path(path: str, key: str) -> str:
    """Return a path of the configuration with ``~`` and ``$NAME`` expanded.

    Raises:
        ConfigError: if no folder can have that name, or a variable in it is not set.
    """
    found = os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 - leaves unknown users as they are
    if unset := VARIABLE.search(found):
        raise ConfigError(f"{key}: {path!r}: the variable {unset[0]} is not set: set it or write the path in full.")
    if found.startswith("~"):
        raise ConfigError(f"{key}: {path!r}: no such user: write the path in full.")
    if wrong := re.search(r"[\x00-\x1f\x7f{}]", found):
        raise ConfigError(f"{key}: {path!r}: the character {wrong[0]!r} is not allowed in a path: choose another name.")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in found.split("/")):
        raise ConfigError(
            f"{key}: a name in {path[:60]!r}... is longer than {LONGEST_NAME} bytes: choose a shorter one."
        )
    return found


def check_folder(path: str, key: str) -> None:
    """Refuse a path that is not and cannot become a folder; nothing is written.

    Raises:
        ConfigError: naming what is in the way.
    """
    for place in (Path(path), *Path(path).parents):
        if place.is_dir():
            return
        if place.is_symlink():
            raise ConfigError(
                f"{key}: {place} is a link to {place.readlink()}, which does not exist: mount or create it, or remove "
                "the link."
            )
        if place.exists():
            raise ConfigError(f"{key}: {place} is a file: give a folder, or move the file away.")


def check_own_folders() -> None:
    """Refuse anything but a folder where the workflow, or Snakemake, has a folder of its own.

    Raises:
        ConfigError: naming what is in the way.
    """
    for name in ("work", "logs", "benchmarks", ".snakemake"):
        check_folder(name, "this project")


def check_apart(results: str, project: Path) -> None:
    """Refuse a results folder with other files in it, which `prune` could mistake for unused results.

    Args:
        results: the results folder, relative to the project.
        project: the folder of the workflow.

    Raises:
        ConfigError: naming what is there.
    """
    folder, project = (project / results).resolve(), project.resolve()
    if folder == project or folder in project.parents:
        raise ConfigError(f"paths.results: {results} contains the project itself: use a separate folder in it.")
    inside = folder.relative_to(project).parts[0] if folder.is_relative_to(project) else ""
    if inside in WORKFLOW_FOLDERS:
        raise ConfigError(f"paths.results: {results} is in {inside}/, which the workflow needs: choose another folder.")


def outside_notes(folders: dict[str, str | None], project: Path) -> list[str]:
    """Return a note on the folders outside ``project``, with links resolved; none if all are inside."""
    outside = []
    for key, folder in folders.items():
        place = Path(os.path.realpath(project / folder)) if folder else project.resolve()  # of a loop, too
        if not place.is_relative_to(project.resolve()):
            outside.append(f"{key} is {place}")
    return [f"outside this project: {', '.join(outside)}."] if outside else []


def unwritable_notes(folder: str | Path, key: str) -> list[str]:
    """Return a note if an existing folder is not writable; Snakemake would fail with its own message."""
    if not Path(folder).is_dir() or os.access(folder, os.W_OK):
        return []
    return [f"{key}: {folder} cannot be written to: its contents can be read, but nothing new can be created."]


def try_folder(path: str, key: str) -> list[str]:
    """Write to a folder as a workflow does, and return notes on features that its disk lacks.

    Raises:
        ConfigError: if nothing can be written there.
    """
    folder = Path(path)
    trial = sibling(folder / "trial")
    try:
        trial.mkdir(parents=True)
        (trial / "file").write_bytes(b"1")
        flushes = sync_directory(trial)
        links = _has_links(trial)
    except OSError as error:
        raise ConfigError(
            f"{key}: {folder} cannot be written to ({error.strerror}): {_cure(error)}, or name another folder."
        ) from None
    finally:
        with suppress(OSError):
            remove_tree(trial)
    notes = []
    if not flushes:
        notes.append(f"the disk of {folder} cannot flush folders: after a power cut the newest files are rebuilt.")
    if not links and key == "paths.results":
        notes.append(f"the disk of {folder} has no symbolic links: runs/<run>/latest.txt names the current folder.")
    return notes


def _has_links(trial: Path) -> bool:
    try:
        (trial / "link").symlink_to("file")
    except OSError:
        return False
    return True


def _cure(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free up space there"
    return "mount it read-write" if error.errno == errno.EROFS else "give yourself write permission there"


def check_clock(files: Iterable[str | Path], now: float | None = None) -> None:
    """Refuse to start when files of earlier commands have times in the future.

    Snakemake removes outputs that are older than their inputs, after computing them.

    Args:
        files: files and folders; of folders the direct entries are checked, too.
        now: seconds since the epoch, for tests.

    Raises:
        ConfigError: naming the newest file and what to do.
    """
    now = time.time() if now is None else now
    newest, path = max(_times(files), default=(0.0, ""))
    if newest > now + CLOCK_TOLERANCE:
        here, there = (datetime.fromtimestamp(value).strftime("%Y-%m-%d %H:%M:%S") for value in (now, newest))
        raise ConfigError(
            f"the clock of this machine says {here}, and {path} was written at {there}: set the clock. If it is right,"
            ' `find results work -newermt now -exec touch -d "$(date)" {} +` gives such files the time of now.'
        )


def _times(files: Iterable[str | Path]) -> Iterable[tuple[float, str]]:
    for file in map(Path, files):
        with suppress(OSError):
            yield file.stat(follow_symlinks=False).st_mtime, str(file)
        if file.is_dir() and not file.is_symlink():
            yield from _times_inside(file)


def _times_inside(folder: Path) -> Iterable[tuple[float, str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        for _, entry in zip(range(MOST_CHECKED_ENTRIES), entries, strict=False):
            with suppress(OSError):
                yield entry.stat(follow_symlinks=False).st_mtime, entry.path
