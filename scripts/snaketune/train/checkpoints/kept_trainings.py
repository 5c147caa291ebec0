"""Finished trainings, kept while a workflow runs.

Snakemake removes what a job made before it runs it again, and it has reasons that change no result: times that a copy
or a backup lost, or a rule that says the same in other words. The state of a training in ``work`` may be gone by then.
So a workflow that begins keeps hard links to what is published, and a training that finds its own there puts it back.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from snaketune.core.atomic import remove_tree, writing_directory
from snaketune.core.cached_state import say
from snaketune.core.canonical import read_json
from snaketune.core.errors import DiskFullError
from snaketune.core.manifest import damaged_files, listed_files

FOLDER = ".published"
MANIFEST = "adapter.manifest.json"
FILES = ("metrics.jsonl", "run_info.json", MANIFEST)
# Where a file system has no hard links, larger results are not copied each time.
MOST_COPIED_BYTES = 1 << 30


def keep_trainings(folders: Iterable[Path]) -> None:
    """Keep what finished trainings published in ``folders``; where nothing can be written, a line says so."""
    for folder in folders:
        try:
            _keep(folder)
        except (OSError, DiskFullError) as error:
            say(f"the training in {folder} cannot be kept while this workflow runs ({error}).")


def _keep(folder: Path) -> None:
    files = listed_files(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
    if not files or not all((folder / name).is_file() for name in (*FILES, *files)):
        return
    with writing_directory(folder / FOLDER) as kept:
        for name in (*files, *FILES):
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            _link(folder / name, kept / name)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:
        if file.stat().st_size > MOST_COPIED_BYTES:
            raise
        shutil.copyfile(file, target)


def drop_kept(folders: Iterable[Path]) -> None:
    """Remove what was kept beside trainings that are published; of another one it is all that there is."""
    for folder in folders:
        if (folder / MANIFEST).is_file() and (folder / FOLDER).exists():
            with suppress(OSError):  # what stays costs no place, and the next command tries again
                remove_tree(folder / FOLDER)


def put_back(folder: Path, fingerprint: str) -> bool:
    """Publish a kept training again if it is the one with this identity and every file is as its manifest says.

    Args:
        folder: of the run.
        fingerprint: identity of the training that is asked for.

    Returns:
        Whether it is published, so that there is nothing to train.
    """
    kept = folder / FOLDER
    try:
        if read_json(kept / MANIFEST)["fingerprint"] != fingerprint:
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if damaged_files(kept / MANIFEST) or not all((kept / name).is_file() for name in FILES):
        return False
    names = {name.split("/")[0] for name in listed_files(kept / MANIFEST) or ()}
    for name in (*sorted(names), *FILES):
        remove_tree(folder / name)
        os.replace(kept / name, folder / name)
    remove_tree(kept)
    return True
