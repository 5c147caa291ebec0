"""Sealed checkpoints, which exist complete or not at all, and the search for the newest intact one."""

import re
import shutil
from pathlib import Path
from typing import Any

from snaketune.core.atomic import replace_folder, sync_directory, sync_tree, write_json
from snaketune.core.canonical import digest_of, read_json
from snaketune.core.errors import TrainingError
from snaketune.core.manifest import damaged_files, describe_files

CHECKPOINT_MANIFEST = "checkpoint.json"
_NAME = re.compile(r"^checkpoint-(\d+)$")


def seal(partial: Path, target: Path, facts: dict[str, Any]) -> None:
    """Flush a written checkpoint, record the digests of its files and move it to its final name.

    Args:
        partial: the folder that it was written to.
        target: its final name; an existing folder is replaced.
        facts: recorded with it; they include ``fingerprint``, the identity of its training.
    """
    facts = {"files": describe_files([partial], partial), **facts}
    write_json(partial / CHECKPOINT_MANIFEST, {**facts, "digest": digest_of(facts)})
    # Contents reach the disk before the rename does: otherwise a power cut could leave the name with empty files.
    sync_tree(partial)
    replace_folder(partial, target)
    sync_directory(target.parent)


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in ``folder``, newest first."""
    found = (_NAME.match(path.name) for path in folder.glob("checkpoint-*") if path.is_dir())
    return sorted((int(match.group(1)) for match in found if match), reverse=True)


def keep_newest(folder: Path, limit: int, best: int | None = None) -> None:
    """Remove all checkpoints but the newest ``limit`` and the one of step ``best``."""
    # Called after a new checkpoint is sealed, so that at least one intact checkpoint exists at any time.
    for step in checkpoint_steps(folder)[limit:]:
        if step != best:
            shutil.rmtree(folder / f"checkpoint-{step}")


def newest_intact(folder: Path, fingerprint: str) -> Path | None:
    """Return the newest checkpoint whose files match their digests; print the ones that are skipped.

    Raises:
        TrainingError: if it belongs to another training than ``fingerprint``: resuming from it would mix two runs.
    """
    # A checkpoint without its manifest, which is written last, is incomplete. Digests are checked as well: after a
    # power cut a file may have its name and size but not its content.
    for step in checkpoint_steps(folder):
        checkpoint = folder / f"checkpoint-{step}"
        problem = _problem(checkpoint)
        if problem is None:
            _require_owner(checkpoint, fingerprint)
            return checkpoint
        print(f"Checkpoint {checkpoint} is damaged ({problem}): using the one before.", flush=True)
    return None


def _problem(checkpoint: Path) -> str | None:
    manifest = checkpoint / CHECKPOINT_MANIFEST
    if not manifest.is_file():
        return f"{CHECKPOINT_MANIFEST} is missing"
    try:
        facts = read_json(manifest)
        if facts.pop("digest") != digest_of(facts):
            return f"{CHECKPOINT_MANIFEST} was changed"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{CHECKPOINT_MANIFEST} cannot be read"
    best = facts["best"][1] if "best" in facts else None
    # Resuming from it would end with the best checkpoint gone and nothing to publish.
    if best is not None and not is_sealed(checkpoint.parent, best) and best != facts["step"]:
        return f"the checkpoint of step {best}, its best predecessor, is missing"
    bad = damaged_files(manifest)
    return f"{bad[0]} is missing or changed" if bad else None


def _require_owner(checkpoint: Path, fingerprint: str) -> None:
    owner = checkpoint_facts(checkpoint)["fingerprint"]
    # The folder is named by the fingerprint, so this is a folder that was copied or renamed by hand.
    if owner != fingerprint:
        raise TrainingError(
            f"{checkpoint} belongs to training {owner}, not to this one, {fingerprint}: move it away; it is not used."
        )


def is_sealed(folder: Path, step: int) -> bool:
    """Tell whether the checkpoint of a step is complete; its files are verified when it is used."""
    return (folder / f"checkpoint-{step}" / CHECKPOINT_MANIFEST).is_file()


def checkpoint_facts(checkpoint: Path) -> dict[str, Any]:
    """Return the facts that :func:`seal` recorded with the checkpoint."""
    return read_json(checkpoint / CHECKPOINT_MANIFEST)
