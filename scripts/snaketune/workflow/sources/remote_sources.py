"""Sources in object storage as found when the workflow starts: their names and entity tags, not their content."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snaketune.core.cached_state import read_state, write_state
from snaketune.core.errors import ConfigError, DataError
from snaketune.storage.object_storage import (
    Address,
    StoredObject,
    connect,
    describe_object,
    listed_objects,
    require_storage_package,
)
from snaketune.workflow.sources.matching_files import choose_split, data_files
from snaketune.workflow.sources.matching_files import listed_paths as shown

WILDCARD = re.compile(r"[*?[]")
TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^]]*\]|.", re.DOTALL)
WILD = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


class RemoteSources:
    """Looks up objects by address or pattern.

    Args:
        memory: cache file for the jobs' own processes: nodes may not reach the storage, and a job uses the objects that
            its workflow saw.
        is_asking: whether to ask the storage even if the cache has an entry.
        connect: returns a client of the storage.
    """

    def __init__(self, memory: str | Path, is_asking: bool = True, connect: Callable[[], Any] = connect):
        self._memory, self._is_asking = Path(memory), is_asking
        self._connect, self._client = connect, None
        self._found: dict[str, list[dict[str, Any]]] = {}
        self.notes: dict[str, None] = {}  # in order, without repeats

    def find(self, pattern: str, key: str, split: str | None = None) -> list[StoredObject]:
        """Return the objects behind an address, a folder or a pattern, sorted; ``key`` is the key for errors.

        ``*`` matches anything within a folder, ``**`` any folders; neither matches names that start with a dot. A
        folder stands for the data files below it, of one split if their names tell splits.

        Raises:
            ConfigError: if there is none, or the storage cannot be asked.
        """
        name = f"{pattern} ({split})" if split else pattern
        if name not in self._found:
            remembered = {} if self._is_asking else self._remembered()
            self._found[name] = remembered.get(name) or self._ask(pattern, key, split)
        return [StoredObject(**entry) for entry in self._found[name]]

    def save(self) -> None:
        """Keep what was found for the processes of the jobs."""
        if self._is_asking and self._found and self._remembered() != self._found:
            write_state(self._memory, self._found)

    def _remembered(self) -> dict[str, list[dict[str, Any]]]:
        return read_state(self._memory, lambda found: isinstance(found, list))

    def _ask(self, pattern: str, key: str, split: str | None) -> list[dict[str, Any]]:
        require_storage_package(f"{key}: {pattern}")
        try:
            self._client = self._client or self._connect()
            found = _matching_objects(self._client, pattern)
            found = found if found and not split else self._in_folder(pattern, key, split)
        except (ConfigError, DataError) as error:
            raise ConfigError(f"{key}: {error}") from None
        return [{"url": one.url, "bytes": one.bytes, "etag": one.etag} for one in found]

    def _in_folder(self, folder: str, key: str, split: str | None) -> list[StoredObject]:
        """Return the data files below a folder, with a note on those left out."""
        start = folder.rstrip("/") + "/"
        if WILDCARD.search(Address.of(folder).key):
            raise DataError(f"{folder} has no splits: remove `split: {split}`, or give the folder.")
        inside = {one.url.removeprefix(start): one for one in listed_objects(self._client, start, name=folder)}
        data = data_files(sorted(name for name in inside if "/." not in f"/{name}"))
        if not data:
            raise DataError(f"{folder} is a folder without data files: found {shown(sorted(inside)) or 'nothing'}.")
        chosen, others = choose_split(data, split, folder)
        if others:
            self.notes[
                f"{key}: in {folder} the files of other splits are left out: {shown(others)}; set `split:` to select "
                "others."
            ] = None
        return [inside[name] for name in chosen]


def _matching_objects(client: Any, pattern: str) -> list[StoredObject]:
    """Return the objects behind an address or a pattern, nothing if it is a folder.

    Raises:
        DataError: if there is none or the storage cannot be asked.
    """
    address = Address.of(pattern)
    magic = WILDCARD.search(address.key)
    if address.key and not address.key.endswith("/") and not magic:
        try:
            return [describe_object(client, pattern)]
        except DataError:
            if not any(
                listed_objects(client, f"{pattern}/", name=pattern)
            ):  # this also tells whether the bucket exists
                raise
    if not magic:
        return []
    start, rest = address.key[: magic.start()], address.key[magic.start() :]
    folder = start.rpartition("/")[0]
    wanted = re.compile(translate(address.key))
    found = []
    for one in listed_objects(client, str(Address(address.bucket, start)), "/" in rest or "**" in rest, pattern):
        if one.url == pattern:
            return [one]
        key = Address.of(one.url).key
        if wanted.match(key) and "/." not in f"/{key[len(folder) :].lstrip('/')}":  # as in a shell
            found.append(one)
    if not found:
        raise DataError(f"{pattern} matches no object: check the pattern; * stops at a slash, ** does not.")
    return sorted(found, key=lambda one: one.url)


def translate(pattern: str) -> str:
    """Return a path pattern as a regular expression: ``*`` and ``?`` stop at slashes, ``**`` does not."""
    return "".join(_translated(token) for token in TOKEN.findall(pattern)) + r"\Z"


def _translated(token: str) -> str:
    if token in WILD:
        return WILD[token]
    if token.startswith("[") and len(token) > 1:
        inside = token[1:-1].replace("\\", r"\\").replace("[", r"\[")
        return f"(?!/)[{'^' + inside[1:] if inside.startswith('!') else inside}]"
    return re.escape(token)
