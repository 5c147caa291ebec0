"""Owners of results: several copies of the project may share one results folder.

Each project and configuration file has a file in ``<results>.owners`` with the variants that it uses and ever used.
These files are volatile, so they are kept next to the results, which are identical wherever they are made; if that
place is not writable, they are kept inside.
"""

import hashlib
import os
import re
import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from snaketune.core.atomic import write_json
from snaketune.core.canonical import read_json
from snaketune.core.errors import say

# The owner of results that no owner file names, while several owners share the folder.
UNKNOWN_OWNER = "unknown"


@dataclass(frozen=True, slots=True)
class Owner:
    """A project and configuration file that use a results folder.

    Attributes:
        name: what `prune` calls it.
        project: its folder; empty when its file is damaged.
        config: its configuration file.
        uses: variants that its configuration used last, as paths below the results folder.
        made: variants that it ever used.
        host: the machine that it ran on last.
    """

    name: str
    project: str
    config: str
    uses: frozenset[str]
    made: frozenset[str]
    host: str = ""

    def is_at(self, project: Path, config: str) -> bool:
        """Tell whether this is the project at a path of this machine, named before its ``work`` was removed."""
        return (self.project, self.config, self.host) == (str(project), config, socket.gethostname())

    def __str__(self) -> str:
        where = f"{self.project}, {self.config}" if self.project else "its file is damaged"
        return f"{self.name} ({where}{'' if not self.project or Path(self.project).is_dir() else ', not here'})"


def name_of_owner(work: Path, project: Path, config: str) -> str:
    """Return the name of a project and configuration file as an owner, the same at every call.

    A copy of the project has another name, even if its ``work`` folder was copied too.
    """
    # The path is part of the name, because a copied project has the same identity file.
    text = "\n".join([_identity(work / "project-id"), str(project), config])
    mark = hashlib.blake2b(os.fsencode(text), digest_size=3).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', project.name)[:40] or 'project'}-{mark}"


def _identity(path: Path) -> str:
    """Return a mark that distinguishes two projects at the same path on two machines; empty if it cannot be stored."""
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{uuid.uuid4().hex}\n")
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def claim(results: Path, name: str, project: Path, config: str, uses: Iterable[str]) -> None:
    """Record that an owner uses variants, in addition to earlier ones; print a note if that cannot be written.

    A project whose ``work`` was removed gets a new name: it takes over the variants of the old one.
    """
    # Written only when something changed, so that a start with nothing to do writes nothing.
    uses = sorted(uses)
    owners = owners_of(results)
    before = next((owner for owner in owners if owner.name == name), None)
    earlier = [owner for owner in owners if owner.name != name and owner.is_at(project, config)]
    made = sorted({*uses, *(before.made if before else ())}.union(*(owner.made for owner in earlier)))
    if before and before.project and not earlier and (sorted(before.uses), sorted(before.made)) == (uses, made):
        return
    facts = {"project": str(project), "config": config, "host": socket.gethostname(), "uses": uses, "made": made}
    for folder in _places(results):
        try:
            write_json(folder / f"{name}.json", facts)
            return _forget(results, earlier)
        except OSError as error:
            reason = error.strerror
    say(f"{results}: cannot record the owner of these results ({reason}): another copy of this project may prune them.")


def _forget(results: Path, owners: Iterable[Owner]) -> None:
    for folder in _places(results):
        for owner in owners:
            (folder / f"{owner.name}.json").unlink(missing_ok=True)


def owners_of(results: Path) -> list[Owner]:
    """Return the owners of a results folder, sorted by name.

    One with a damaged file owns what no other owner claims.
    """
    files = {path.stem: path for folder in reversed(_places(results)) for path in folder.glob("*.json")}
    return [_read(path) for _, path in sorted(files.items())]


def _places(results: Path) -> tuple[Path, Path]:
    """Return where owner files are kept: next to the results, or inside."""
    absolute = results.absolute()
    return absolute.with_name(f"{absolute.name}.owners"), absolute / "owners"


def _read(path: Path) -> Owner:
    try:
        found = read_json(path)
        uses, made = (frozenset(map(str, found[key])) for key in ("uses", "made"))
        return Owner(path.stem, str(found["project"]), str(found["config"]), uses, made, str(found.get("host", "")))
    except (OSError, ValueError, KeyError, TypeError):
        return Owner(path.stem, "", "", frozenset(), frozenset())


def owner_of(variant: str, own: str, owners: list[Owner]) -> str:
    """Return the owner of a variant that ``own`` does not use: the one that uses it, else the one that made it.

    Args:
        variant: its path below the results folder.
        own: the name of the asking owner.
        owners: all of them.
    """
    others = [owner for owner in owners if owner.name != own]
    for names in ([o.name for o in others if variant in o.uses], [o.name for o in owners if variant in o.made]):
        if names:
            return next((name for name in names if name != own), own)
    return UNKNOWN_OWNER if others else own
