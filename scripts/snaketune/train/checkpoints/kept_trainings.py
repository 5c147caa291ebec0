"""Protection of finished trainings while a workflow runs.

Snakemake removes a job's outputs before it reruns the job, and some of its reasons change no result: modification times
lost by a copy or a backup, or a rule that was only reworded. The training's state in ``work`` may be gone by then.
Therefore a starting workflow makes hard links to published trainings, and a training that finds its own restores it.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from snaketune.core.atomic import remove_tree, writing_directory
from snaketune.core.canonical import read_json
from snaketune.core.errors import DiskFullError, say
from snaketune.core.manifest import damaged_files, listed_files

KEPT_FOLDER = ".published"
MANIFEST = "adapter.manifest.json"
KEPT_FILES = ("metrics.jsonl", "run_info.json", MANIFEST)
# Larger results are not copied where a file system has no hard links.
MOST_COPIED_BYTES = 1 << 30


def keep_trainings(folders: Iterable[Path]) -> None:
    """Link the published files of finished trainings in ``folders``; print a line for one that cannot be linked."""
    for folder in folders:
        try:
            _keep(folder)
        except (OSError, DiskFullError) as error:
            say(f"the training in {folder} cannot be kept while this workflow runs ({error}).")


def _keep(folder: Path) -> None:
    files = listed_files(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
    if not files or not all((folder / name).is_file() for name in (*KEPT_FILES, *files)):
        return
    with writing_directory(folder / KEPT_FOLDER) as kept:
        for name in (*files, *KEPT_FILES):
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
    """Remove the links of trainings that are published; those of others are the only copy and stay."""
    for folder in folders:
        if (folder / MANIFEST).is_file() and (folder / KEPT_FOLDER).exists():
            with suppress(OSError):  # remaining links take no space, and the next command removes them
                remove_tree(folder / KEPT_FOLDER)


def put_back(folder: Path, fingerprint: str) -> bool:
    """Restore a protected training if it has this identity and every file matches its manifest.

    Args:
        folder: the folder of the run.
        fingerprint: identity of the requested training.

    Returns:
        Whether it was restored, so that nothing has to be trained.
    """
    kept = folder / KEPT_FOLDER
    try:
        if read_json(kept / MANIFEST)["fingerprint"] != fingerprint:
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    # Hard links share their content with the published files: an edit in place would have changed both.
    if damaged_files(kept / MANIFEST) or not all((kept / name).is_file() for name in KEPT_FILES):
        return False
    names = {name.split("/")[0] for name in listed_files(kept / MANIFEST) or ()}
    # The manifest comes last: until it is in place, the training does not count as finished.
    for name in (*sorted(names), *KEPT_FILES):
        remove_tree(folder / name)
        os.replace(kept / name, folder / name)
    remove_tree(kept)
    return True
