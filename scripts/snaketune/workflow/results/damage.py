"""Finds results that were deleted, edited or damaged, when a command starts, and repairs or rebuilds them."""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from snaketune.core.canonical import read_json
from snaketune.core.digests import DigestCache, file_digest
from snaketune.core.errors import DataError
from snaketune.core.manifest import listed_files
from snaketune.core.outputs import Output, changed_outputs, forget_outputs, restore
from snaketune.merge.outcome import FACTS as MERGE_FACTS
from snaketune.merge.outcome import is_to_be_repeated
from snaketune.workflow.results.unrecorded import contradicted_groups, has_form, unrecorded_facts


def heal(wanted: list[str], work: str | Path, verify: bool = False, shared: Iterable[str] = ()) -> None:
    """Restore small files that were edited, and remove outputs that have to be rebuilt.

    Args:
        wanted: every file that the configuration asks for.
        work: the folder of records.
        verify: read every file of every result instead of only those with changed times.
        shared: folders that another project also uses: differences there may be its work and are left alone.

    Raises:
        DataError: if something damaged can be neither removed nor restored.
    """
    try:
        for folder in dict.fromkeys(Path(path).parent for path in wanted):
            for output in changed_outputs(folder, work, verify):
                _put_right(output, work, str(folder) in shared)
            if str(folder) not in shared:
                _drop_contradicted(folder, work)
        _drop_unreadable(wanted, work)
        _drop_failed_merges([path for path in wanted if path.endswith(MERGE_FACTS)])
        _drop_stopping_plans([Path(path) for path in wanted if path.endswith("/plan.json")], work)
        manifests = [path for path in wanted if path.endswith(("manifest.json", MERGE_FACTS))]
        drop_damaged_manifests(manifests, Path(work) / "digests.json", verify)
    except OSError as error:
        path = Path(str(error.filename2 or error.filename))  # of a rename, the second is the final name
        cure = "make its folder writable"
        if path.is_dir():
            cure = "remove that folder"
        elif path.is_file() and not os.access(path, os.R_OK):
            cure = "make it readable"
        raise DataError(f"{path} is damaged and cannot be rebuilt ({error.strerror}): {cure}.") from None


def _drop_failed_merges(paths: list[str]) -> None:
    """Remove the facts of merges that failed for reasons of the machine, so that this command retries them."""
    for path in filter(is_to_be_repeated, paths):
        _say(f"{path} records a merge that failed for a reason of the machine: the merge is retried.")
        Path(path).unlink()


def _drop_stopping_plans(plans: list[Path], work: str | Path) -> None:
    """Remove plans that block a training: disk space may have been freed, or the machine be a different one."""
    for path in plans:
        if path.with_name("adapter.manifest.json").exists():
            continue
        with suppress(FileNotFoundError, ValueError):
            if isinstance(plan := read_json(path), dict) and plan.get("stops"):
                forget_outputs([path], work)
                path.unlink()


def _put_right(output: Output, work: str | Path, is_shared: bool) -> None:
    """Restore an output that was edited; if one is missing, remove the job's other outputs, so that the job reruns."""
    if is_shared:
        forget_outputs([output.path], work)
    elif output.path.is_file() and restore(output, work):
        _say(f"{output.path} was changed since it was made: its content is restored.")
    elif not any(output.path.with_name(name).exists() for name in output.group):
        forget_outputs([output.path], work)
    elif _is_dear(output, work):
        restore(output, work)
        _say(f"{output.path} was deleted: it is restored, because its training is no longer in {work}/runs.")
    else:
        for name in output.group:
            output.path.with_name(name).unlink(missing_ok=True)
        _say(f"{output.path} was deleted or changed since it was made: it is rebuilt.")


def _drop_contradicted(folder: Path, work: str | Path) -> None:
    """Remove what was changed while it had no record, with the other outputs of its job.

    A training is not repeated for facts beside its adapter: if its state is gone, that decision is left to the user.
    """
    for path, group in contradicted_groups(folder, work).items():
        adapter = path.with_name("adapter.manifest.json")
        if adapter.name in group and path != adapter and not _has_state(adapter, work):
            _say(
                f"Note: {path} was changed since it was made, and its training is no longer in {work}/runs:"
                f" delete {adapter} to train again; the report shows what it holds now."
            )
            continue
        _say(f"{path} was changed since it was made, and no record of its content is left: it is rebuilt.")
        for name in group:
            path.with_name(name).unlink(missing_ok=True)


def _is_dear(output: Output, work: str | Path) -> bool:
    """Tell whether rebuilding an output would repeat a training whose state is gone."""
    manifest = output.path.with_name("adapter.manifest.json")
    if manifest.name not in output.group or manifest == output.path or output.content is None:
        return False
    return not _has_state(manifest, work)


def _has_state(adapter: Path, work: str | Path) -> bool:
    """Tell whether a training can restore its results, or whether its manifest cannot be read at all."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found: bool = (Path(work) / "runs" / read_json(adapter)["fingerprint"]).is_dir()
        return found
    return True


def _drop_unreadable(wanted: list[str], work: str | Path) -> None:
    """Remove fact files that their readers would refuse; recorded ones have been compared with their records."""
    for path in unrecorded_facts(wanted, work):
        if not has_form(path):
            _say(f"{path} is damaged: it is rebuilt.")
            path.unlink()


def drop_damaged_manifests(manifests: list[str], cache: str | Path, verify: bool = False) -> None:
    """Remove the manifest of every stage whose files were deleted or changed, so that the stage is rebuilt.

    A file is read if its mtime or ctime is not older than its manifest, which is written last, and the cache does not
    know it: no program can set a ctime. Reading everything at each start would take minutes for large models; stages
    check full digests before they use a file, and ``verify`` does so here.
    """
    digests = DigestCache(cache)
    for manifest in map(Path, manifests):
        if manifest.is_file() and (bad := _damaged(manifest, digests, verify)):
            _say(f"{manifest.parent / bad} was deleted or changed since it was made: it is rebuilt.")
            manifest.unlink()
    digests.save()


def _damaged(manifest: Path, digests: DigestCache, verify: bool) -> str | None:
    made = manifest.stat().st_mtime_ns
    if (files := listed_files(manifest)) is None:
        return manifest.name
    for name, entry in files.items():
        file = manifest.parent / name
        if not file.is_file() or (stat := file.stat()).st_size != entry["bytes"]:
            return name
        if verify and file_digest(file) != entry["digest"]:
            return name
        changed = max(stat.st_mtime_ns, stat.st_ctime_ns, file.lstat().st_ctime_ns)  # of a link that was put there, too
        if changed >= made and digests.digest(file) != entry["digest"]:
            return name
    return None


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
