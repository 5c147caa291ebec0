"""Publishing the folder of a run to object storage: files first, then the manifests that list them, then the index.

Object storage has no transactions. The order guarantees that a manifest never lists a file that is missing or old, so a
reader that starts from a manifest sees a consistent run at any time.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.atomic import write_json
from snaketune.core.digests import file_digest, files_under
from snaketune.core.errors import DataError
from snaketune.core.manifest import listed_files, mark_damaged
from snaketune.core.outputs import changed_outputs, restore
from snaketune.publish.uploading import stored_digest, upload
from snaketune.storage.object_storage import CONNECTIONS, Address, explained, listed_objects

# The file that marks the upload as complete.
PUBLISHED_INDEX = "published.json"


@dataclass(frozen=True, slots=True)
class Published:
    """The result of publishing a folder: files and bytes uploaded, total files, files removed."""

    files: int
    bytes: int
    total: int
    removed: int


def publish_folder(
    client: Any,
    folder: Path,
    url: str,
    work: Path,
    say: Callable[[str], object] = lambda line: None,
) -> Published:
    """Make the objects under ``url`` equal to the files of a run's folder, uploading only missing files.

    A manifest is deleted before a file that it lists changes, and uploaded again afterwards; ``published.json``, which
    lists every file with its size and digest, comes last. Objects without our digest in their metadata are kept.

    Args:
        client: client of the storage.
        folder: folder of the run.
        url: address of its folder in the storage, without a trailing slash.
        work: private folder, where the index is written before it is uploaded.
        say: called with a line for each uploaded file.

    Raises:
        DataError: if a file is damaged, or the storage cannot be written to.
    """
    files = checked_files(folder)
    named = _named(folder, files)
    index = work / f"{folder.parent.name}-{folder.name}.json"
    write_json(index, {"files": files})
    wanted = {name: entry["digest"] for name, entry in files.items()} | {PUBLISHED_INDEX: file_digest(index)}
    there = _stored(client, url)
    todo = {name for name in wanted if there.get(name) != wanted[name]}
    extra = {name for name, digest in there.items() if name not in wanted and digest}
    if not todo and not extra:
        return Published(0, 0, len(files), 0)
    todo |= {PUBLISHED_INDEX} | {manifest for manifest, others in named.items() if todo.intersection(others)}
    # Manifests and the index promise that other files exist, so they go first and come back last.
    promises = {name for name in todo if name == PUBLISHED_INDEX or name in named}
    _remove(client, url, [*sorted(promises.intersection(there)), *sorted(extra)])
    for name in (*sorted(todo - promises), *sorted(promises - {PUBLISHED_INDEX}), PUBLISHED_INDEX):
        place = index if name == PUBLISHED_INDEX else folder / name
        say(f"Uploading {url}/{name} ({place.stat().st_size / 1e6:,.1f} MB)")
        upload(client, place, f"{url}/{name}", wanted[name])
    sent = todo - {PUBLISHED_INDEX}
    return Published(len(sent), sum(files[name]["bytes"] for name in sent), len(files), len(extra))


def checked_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the size and digest of every file of a run's folder, after checking that all are as their jobs wrote them.

    Raises:
        DataError: if a file is damaged; the same command rebuilds it.
    """
    _require_as_made(folder)
    files = _files_of(folder)
    _named(folder, files)
    return files


def _files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the size and digest of every file, computed from its content and never inferred from file times."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "digest": file_digest(path)}
        for path in files_under(folder)
    }


def _require_as_made(folder: Path) -> None:
    """Restore small files that were edited after their jobs wrote them.

    Raises:
        DataError: if a file was deleted, or was too large for its content to be stored.
    """
    for output in changed_outputs(folder, verify=True):
        if not output.path.is_file() or not restore(output):
            output.path.unlink(missing_ok=True)
            raise DataError(f"{output.path} differs from what its job wrote: run the same command again to rebuild it.")


def _named(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    """Return the files listed in each manifest.

    Raises:
        DataError: if a file differs from its manifest, so that a reader would refuse it. The manifest is removed, so
            that the same command rebuilds the file.
    """
    named = {}
    for manifest in (name for name in files if name.endswith("manifest.json")):
        if (entries := listed_files(folder / manifest)) is None:
            raise mark_damaged(folder / manifest, manifest)
        for name, entry in entries.items():
            if files.get(name, {}).get("digest") != entry["digest"]:
                raise mark_damaged(folder / manifest, name)
        named[manifest] = set(entries)
    return named


def _stored(client: Any, url: str) -> dict[str, str | None]:
    """Return the digests of the objects under ``url`` by name; None for objects that were not uploaded from here."""
    names = [one.url.removeprefix(f"{url}/") for one in listed_objects(client, f"{url}/")]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        digests = pool.map(lambda name: stored_digest(client, f"{url}/{name}"), names)
        return dict(zip(names, digests, strict=True))


def _remove(client: Any, url: str, names: Iterable[str]) -> None:
    for name in names:
        address = Address.of(f"{url}/{name}")
        with explained(client, str(address)):
            client.delete_object(Bucket=address.bucket, Key=address.key)
