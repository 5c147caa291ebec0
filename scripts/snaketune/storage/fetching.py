"""Verified copies of objects: parts are fetched in parallel and written in order; broken connections are resumed.

Since parts are written in order, a partial file is always the beginning of the object and can be resumed. The copy
gets its final name once its content is complete and checked.
"""

import errno
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import xxhash

from snaketune.core.atomic import sync_directory
from snaketune.core.digests import HASHED_AT_ONCE
from snaketune.core.errors import DataError
from snaketune.data.sources.source_files import changed
from snaketune.storage.object_checks import StreamCheck, check_of
from snaketune.storage.object_storage import CONNECTIONS, StoredObject, broken_connections, explained, is_passing

# Eight connections hold 64 MiB in memory.
FETCHED_PART_BYTES = 8 << 20
FETCHED_AT_ONCE = 1 << 20
# Consecutive attempts without a single byte before giving up: about a minute, including the waits between them.
MOST_FAILURES = 6
LONGEST_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Arrived:
    """A fetched object before it gets its final name.

    Attributes:
        place: path of its content.
        digest: XXH3-128 of the content.
        resumed: bytes left by an interrupted attempt.
        rate: throughput in bytes per second; None if nothing was missing.
        is_checked: whether it was compared with a checksum of the server.
    """

    place: Path
    digest: str
    resumed: int
    rate: float | None
    is_checked: bool


def move_into_place(arrived: Arrived, target: Path) -> None:
    """Move a fetched object to its final name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(arrived.place, target)
    sync_directory(target.parent)


def fetch(client: Any, found: StoredObject, partial: Path, advance: Callable[[int], object]) -> Arrived:
    """Copy an object to ``partial``, which may already contain its beginning, and check it.

    Args:
        client: client of the storage.
        found: the object; if another one has replaced it, it is refused.
        partial: the copy, without its final name yet; one process at a time.
        advance: called with the number of bytes processed.

    Raises:
        DataError: if the object changes meanwhile, arrives damaged or cannot be fetched.
    """
    check = check_of(client, found)
    if check is None:
        partial.unlink(missing_ok=True)  # without a checksum, damage to a resumed part would go unnoticed
    arrived = _fetch_once(client, found, partial, check, advance)
    if check is None or check.agrees():
        return arrived
    partial.unlink()
    advance(-found.bytes)
    again = check_of(client, found)
    second = _fetch_once(client, found, partial, again, advance)
    if again is not None and again.agrees():
        return second
    # Transmission damage does not repeat: two equal results mean that the tag is not a checksum on this server.
    if check.is_certain or second.digest != arrived.digest:
        partial.unlink()
        raise DataError(
            f"{found.url} arrived twice with content that does not match its checksum: upload it again, or check the "
            "network path to the server."
        )
    return Arrived(second.place, second.digest, second.resumed, second.rate, False)


def _fetch_once(
    client: Any, found: StoredObject, partial: Path, check: StreamCheck | None, advance: Callable[[int], object]
) -> Arrived:
    state = xxhash.xxh3_128()

    def take(content: Any) -> None:
        # if check
        state.update(content)
        if check is not None:
            check.update(content)
        advance(len(content))

    resumed = _take_prefix(partial, found, take)
    start = time.perf_counter()
    with open(partial, "ab", buffering=0) as file:
        try:
            for content in _Parts(client, found).from_place(resumed):
                _write(file, content)
                take(content)
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno == errno.ENOSPC:  # a partial copy would only keep the disk full
                partial.unlink()
            raise
    missing = found.bytes - resumed
    rate = missing / max(time.perf_counter() - start, 1e-9) if missing else None
    return Arrived(partial, state.hexdigest(), resumed, rate, check is not None)


def _take_prefix(partial: Path, found: StoredObject, take: Callable[[Any], None]) -> int:
    """Pass the bytes left by an interrupted attempt to ``take`` and return their number."""
    # A longer file is the beginning of something else.
    if not partial.exists() or partial.stat().st_size > found.bytes:
        partial.unlink(missing_ok=True)
        return 0
    with open(partial, "rb", buffering=0) as file:
        while content := file.read(HASHED_AT_ONCE):
            take(content)
        return file.tell()


def _write(file: IO[bytes], content: Any) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


class _Parts:
    """The parts of an object, fetched over several connections in parallel."""

    def __init__(self, client: Any, found: StoredObject):
        self._client, self._found = client, found
        self._stopped = threading.Event()

    def from_place(self, start: int) -> Iterator[bytearray]:
        """Yield the content from byte ``start`` on, in order, while the next parts are being fetched."""
        size = self._found.bytes
        waiting: deque[Future[bytearray]] = deque()
        pool = ThreadPoolExecutor(CONNECTIONS)
        try:
            for place in range(start, size, FETCHED_PART_BYTES):
                # At most as many parts as connections are held, fetched or waiting to be written.
                waiting.append(pool.submit(self._part, place, min(FETCHED_PART_BYTES, size - place)))
                if len(waiting) == CONNECTIONS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # pool
            self._stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _part(self, place: int, size: int) -> bytearray:
        """Return some bytes of the object, requesting the missing ones again if a connection breaks."""
        content = bytearray(size)
        filled = failures = 0
        while not self._stopped.is_set():
            arrived, error = self._receive(place + filled, memoryview(content)[filled:])
            filled += arrived
            if error is None:
                break
            # Any progress resets the count: a slow or flaky connection may break many times over a large object.
            failures = 1 if arrived else failures + 1
            if failures > MOST_FAILURES:
                with explained(self._client, self._found.url):
                    raise error
            self._say(error, place + filled)
            self._stopped.wait(0 if arrived else min(2.0 ** (failures - 1), LONGEST_WAIT))
        return content

    def _receive(self, place: int, room: memoryview) -> tuple[int, Exception | None]:
        """Fill ``room`` until the connection breaks or it is full; return the number of bytes and the error, if any."""
        from botocore.exceptions import ClientError

        filled = 0
        try:
            span = f"bytes={place}-{place + len(room) - 1}"
            answer = self._client.get_object(**self._found.asked_for(), Range=span)
            self._refuse_another(answer, span)
            with closing(answer["Body"]) as body:
                while filled < len(room) and (content := body.read(min(FETCHED_AT_ONCE, len(room) - filled))):
                    room[filled : filled + len(content)] = content
                    filled += len(content)
        except broken_connections() as error:
            return filled, error
        except ClientError as error:
            if is_passing(error):
                return filled, error
            with explained(self._client, self._found.url):
                raise
        # A response can end cleanly before all bytes have arrived.
        return filled, None if filled == len(room) else ConnectionError("ended early")

    def _refuse_another(self, answer: Any, span: str) -> None:
        """Refuse a response that is not part of the object: some servers ignore If-Match or Range."""
        if answer.get("ETag", "").strip('"') != self._found.etag:
            raise changed(self._found.url)
        expected = f"{span.replace('=', ' ')}/{self._found.bytes}"
        if answer.get("ContentRange") != expected:
            raise DataError(
                f"{self._found.url}: the server answers a request for {expected} with "
                f"{answer.get('ContentRange', 'everything')}: copy the object here by other means and use the copy."
            )

    def _say(self, error: Exception, place: int) -> None:
        kind = type(error).__name__
        print(f"{self._found.url}: the connection broke ({kind}); continuing at byte {place}.", file=sys.stderr)
