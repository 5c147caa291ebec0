"""`latest` beside the folders of a run: a link to the current one, or a text file on disks without links."""

import os
from pathlib import Path

from snaketune.core.atomic import sibling, write_bytes
from snaketune.core.errors import say

LINK, LINK_TEXT = "latest", "latest.txt"


def point_latest(folder: Path, current: str) -> None:
    """Make ``folder/latest`` point to the run folder ``current`` when its report exists.

    Disks without symbolic links (exFAT, some of CIFS, a WSL mount of Windows) get ``latest.txt`` with the folder's
    name instead. A real folder of that name, which scp or a cloud sync makes out of the link, is moved aside.
    """
    if not (folder / current / "report.html").is_file() or _name_of_latest(folder) == current:
        return
    try:
        _move_aside(folder / LINK)
        if not _link(folder, current):
            write_bytes(folder / LINK_TEXT, f"{current}\n".encode())
    except OSError as error:
        say(f"{folder / LINK} cannot be set to {current} ({error.strerror}): the results are in {folder / current}.")


def latest_folder(folder: Path) -> Path:
    """Return the best path of the folder that ``point_latest`` chose: the link, else the folder itself."""
    name = _name_of_latest(folder)
    return folder / (LINK if (folder / LINK).is_symlink() or not name else name)


def drop_dangling(folder: Path) -> None:
    """Remove ``latest`` if its target is gone."""
    name = _name_of_latest(folder)
    if name and not (folder / name).exists():
        (folder / LINK).unlink(missing_ok=True)
        (folder / LINK_TEXT).unlink(missing_ok=True)


def _name_of_latest(folder: Path) -> str | None:
    link, text = folder / LINK, folder / LINK_TEXT
    if link.is_symlink():
        return str(link.readlink())
    if link.is_dir() or not text.is_file():
        return None
    return text.read_text(encoding="utf-8", errors="replace").strip()


def _link(folder: Path, current: str) -> bool:
    """Make the link; return False if the disk has no links."""
    partial = sibling(folder / LINK)
    try:
        # A link cannot be changed in place; renaming a new one over it never leaves a moment without.
        partial.symlink_to(current)
    except OSError:
        (folder / LINK).unlink(missing_ok=True)
        return False
    os.replace(partial, folder / LINK)
    (folder / LINK_TEXT).unlink(missing_ok=True)
    return True


def _move_aside(latest: Path) -> None:
    if latest.is_symlink() or not latest.is_dir():
        return
    number = 1
    while (aside := latest.with_name(f"{LINK}.copy-{number}")).exists():
        number += 1
    latest.rename(aside)
    say(
        f"{latest} was a real folder (a copy that followed the link?): it was renamed to {aside.name}; `prune` lists "
        "it."
    )
