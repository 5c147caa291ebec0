"""Copies of objects, named by content like those of other sources.

The content digest of an object is known only once it has been fetched. Before that, its address, size and entity tag
identify it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from snaketune.core.cached_state import read_state, write_state
from snaketune.core.canonical import digest_of
from snaketune.core.locks import wait_for_lock
from snaketune.core.private_folders import PrivateFolder
from snaketune.data.sources.source_files import changed
from snaketune.storage.copy_targets import NamedSource, copy_of
from snaketune.storage.copying import Copied
from snaketune.storage.fetching import Arrived, fetch, move_into_place
from snaketune.storage.hub_files import fetch_from_hub, is_on_hub
from snaketune.storage.object_storage import StoredObject, connect, describe_object

ETAG = "etag "


class KnownContents:
    """The content digests of objects fetched earlier, by address, size and entity tag, in a file in ``work``."""

    def __init__(self, work: str | Path):
        self._path = Path(work) / "objects.json"

    def of(self, found: StoredObject) -> str:
        """Return the content digest of an object, empty if it has not been fetched yet."""
        return self._all().get(_key(found), "")

    def remember(self, found: StoredObject, digest: str) -> None:
        """Store the content digest of an object."""
        with wait_for_lock(self._path.with_suffix(".lock"), "records what it fetched"):
            write_state(self._path, self._all() | {_key(found): digest})

    def _all(self) -> dict[str, str]:
        return read_state(self._path, lambda digest: isinstance(digest, str))


def as_entry(found: StoredObject) -> dict[str, Any]:
    """Return the entry of an object in a spec."""
    return {"path": found.url, "bytes": found.bytes, "digest": f"{ETAG}{found.etag}"}


def object_of(entry: Mapping[str, Any]) -> StoredObject:
    """Return the object of an entry in a spec."""
    return StoredObject(entry["path"], entry["bytes"], entry["digest"].removeprefix(ETAG))


def fetch_unknown(
    found: StoredObject, folder: Path, contents: KnownContents, advance: Callable[[int], object]
) -> tuple[NamedSource, Copied]:
    """Fetch an object of unknown content digest to its place in ``folder``.

    Raises:
        DataError: if it has changed, arrives damaged or cannot be fetched.
    """

    def place_copy(arrived: Arrived) -> tuple[NamedSource, Copied]:
        source = NamedSource(found.url, found.bytes, arrived.digest)
        move_into_place(arrived, copy_of(source, folder))
        contents.remember(found, arrived.digest)
        return source, Copied("fetched", arrived.resumed, arrived.rate)

    result: tuple[NamedSource, Copied] = _fetch(
        None if is_on_hub(found.url) else connect(), found, folder, place_copy, advance
    )
    return result


def fetch_known(source: NamedSource, target: Path, folder: Path, advance: Callable[[int], object]) -> Copied:
    """Fetch a source of known content digest to ``target``.

    Raises:
        DataError: if its content has changed, it arrives damaged or cannot be fetched.
    """
    client = None if is_on_hub(source.path) else connect()
    # The address of a file on the hub contains its commit, so its content cannot change.
    found = StoredObject(source.path, source.bytes, "") if client is None else describe_object(client, source.path)
    if found.bytes != source.bytes:
        raise changed(source.path)

    def place_copy(arrived: Arrived) -> Copied:
        if arrived.digest != source.digest:
            arrived.place.unlink()
            raise changed(source.path)
        move_into_place(arrived, target)
        return Copied("fetched", arrived.resumed, arrived.rate)

    result: Copied = _fetch(client, found, folder, place_copy, advance)
    return result


def _fetch(
    client: Any,
    found: StoredObject,
    folder: Path,
    place_copy: Callable[[Arrived], Any],
    advance: Callable[[int], object],
) -> Any:
    """Fetch an object beside the copies in ``folder``, then let ``place_copy`` move it; one process at a time."""
    # Other users can write to a shared scratch folder: a file or link planted at the partial's name must not be used.
    partial = folder / "incoming" / f"{_key(found)}.partial"
    with PrivateFolder(partial.parent) as incoming:
        incoming.remove_planted(partial.name)
    with wait_for_lock(partial.with_suffix(".lock"), "fetches the same object"):
        arrived = fetch_from_hub(found, partial, advance) if client is None else fetch(client, found, partial, advance)
        return place_copy(arrived)


def _key(found: StoredObject) -> str:
    return digest_of([found.url, found.bytes, found.etag])
