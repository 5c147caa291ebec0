"""Upload of a file to an object: each part is sent with its MD5 digest, and the stored object is verified."""

import hashlib
from base64 import b64encode
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import xxhash

from snaketune.core.errors import DataError
from snaketune.storage.object_storage import CONNECTIONS, Address, broken_connections, describe_object, explained

# S3 allows at most 10,000 parts, each of at least 5 MiB except the last.
PART_BYTES = 16 << 20
MOST_PARTS = 10_000
UPLOADED_AT_ONCE = 1 << 20
DIGEST = "snaketune-digest"


def upload(client: Any, path: Path, url: str, digest: str) -> None:
    """Upload a file and verify the stored content; a partial object is never visible at the address.

    The XXH3-128 ``digest`` of the file is stored in the object's metadata, so that existing uploads are recognised.

    Raises:
        DataError: if the file's content differs from ``digest``, or the upload fails or is damaged.
    """
    size = path.stat().st_size
    part_bytes = max(PART_BYTES, -(-size // MOST_PARTS))
    address = Address.of(url)
    target = {"Bucket": address.bucket, "Key": address.key}
    with open(path, "rb") as file, explained(client, url):
        parts = _HashedParts(file, part_bytes)
        if size <= part_bytes:
            body = next(iter(parts), b"")
            _refuse_changed(path, parts, digest)
            answer = client.put_object(**target, Body=body, ContentMD5=_md5(body), Metadata={DIGEST: digest})
            held = answer["ETag"].strip('"') == hashlib.md5(body, usedforsecurity=False).hexdigest()
        else:
            held = _upload_parts(client, target, parts, path, digest)
    if describe_object(client, url).bytes != size or not (held or _read_back(client, url) == digest):
        with explained(client, url):
            client.delete_object(**target)
        raise DataError(f"{url} does not match the uploaded file {path}: run the same command again.")


def stored_digest(client: Any, url: str) -> str | None:
    """Return the digest in an object's metadata; None if the object does not exist or was not uploaded from here.

    Raises:
        DataError: if the request fails.
    """
    from botocore.exceptions import ClientError

    address = Address.of(url)
    with explained(client, url):
        try:
            found: str | None = client.head_object(Bucket=address.bucket, Key=address.key)["Metadata"].get(DIGEST)
            return found
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise


class _HashedParts:
    """The parts of a file, hashed as they are read."""

    def __init__(self, file: IO[bytes], part_bytes: int):
        self._file, self._part_bytes = file, part_bytes
        self._state = xxhash.xxh3_128()

    def __iter__(self) -> Iterator[bytes]:
        while content := self._file.read(self._part_bytes):
            self._state.update(content)
            yield content

    def hexdigest(self) -> str:
        """Return the digest of the parts read so far."""
        return self._state.hexdigest()


def _refuse_changed(path: Path, parts: _HashedParts, digest: str) -> None:
    if parts.hexdigest() != digest:
        raise DataError(f"{path} changed while it was uploaded: run the same command again.")


def _upload_parts(client: Any, target: dict[str, str], parts: _HashedParts, path: Path, digest: str) -> bool:
    """Upload a file in parallel parts; return whether the entity tags prove that the server stored its content."""
    from botocore.exceptions import ClientError

    own = {**target, "UploadId": client.create_multipart_upload(**target, Metadata={DIGEST: digest})["UploadId"]}
    try:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            done = list(_sent(client, own, parts, pool))
        _refuse_changed(path, parts, digest)
        numbers = [{"PartNumber": number, "ETag": etag} for number, (etag, _) in enumerate(done, 1)]
        client.complete_multipart_upload(**own, MultipartUpload={"Parts": numbers})
    except BaseException:
        # Parts of an unfinished upload are stored, and billed, until it is aborted.
        with suppress(ClientError, *broken_connections()):  # the original error is the one to report
            client.abort_multipart_upload(**own)
        raise
    return all(etag.strip('"') == md5 for etag, md5 in done)


def _sent(client: Any, own: dict[str, str], parts: _HashedParts, pool: ThreadPoolExecutor) -> Iterator[tuple[str, str]]:
    """Upload the parts, and yield the entity tag and the MD5 digest of each in order."""

    def send(number: int, content: bytes) -> tuple[str, str]:
        answer = client.upload_part(**own, PartNumber=number, Body=content, ContentMD5=_md5(content))
        return answer["ETag"], hashlib.md5(content, usedforsecurity=False).hexdigest()

    waiting: deque[Future[tuple[str, str]]] = deque()
    for number, content in enumerate(parts, 1):
        waiting.append(pool.submit(send, number, content))
        if len(waiting) == CONNECTIONS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read_back(client: Any, url: str) -> str:
    """Return the digest of an object's content, for servers whose entity tags are not MD5 digests."""
    address, state = Address.of(url), xxhash.xxh3_128()
    with explained(client, url):
        for content in client.get_object(Bucket=address.bucket, Key=address.key)["Body"].iter_chunks(UPLOADED_AT_ONCE):
            state.update(content)
    return state.hexdigest()


def _md5(content: bytes) -> str:
    return b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
