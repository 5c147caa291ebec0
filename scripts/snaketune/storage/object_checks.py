"""Checks of fetched objects: the server's checksums, recomputed from the bytes that arrived."""

import hashlib
import re
import zlib
from base64 import b64encode
from typing import Any, Protocol

from snaketune.storage.object_storage import Address, StoredObject, explained

MD5 = re.compile(r"^[0-9a-f]{32}$")
# The MD5 of the MD5 digests of the given number of parts, as for multipart uploads.
MD5_OF_PARTS = re.compile(r"^[0-9a-f]{32}-([0-9]{1,5})$")


class StreamCheck(Protocol):
    """Compares content with the server's checksum as it streams by.

    Attributes:
        is_certain: whether a mismatch proves damage; an entity tag need not be a checksum at all.
    """

    is_certain: bool

    def update(self, content: Any) -> None:
        """Take the next bytes."""

    def agrees(self) -> bool:
        """Return whether the content matches."""


class EtagCheck:
    """The entity tag as most servers compute it: the MD5 of the object, or of the MD5 digests of equal parts."""

    is_certain = False

    def __init__(self, etag: str, part_bytes: int):
        """Expect ``etag``, computed from parts of ``part_bytes`` or, if it has no hyphen, from the whole object."""
        self._etag, self._part_bytes = etag, part_bytes
        self._part, self._filled = hashlib.md5(usedforsecurity=False), 0
        self._done: list[bytes] = []

    def update(self, content: Any) -> None:
        """Take the next bytes."""
        left = memoryview(content)
        while left:
            if self._filled == self._part_bytes:
                self._finish_part()
            piece = left[: self._part_bytes - self._filled]
            self._part.update(piece)
            self._filled += len(piece)
            left = left[len(piece) :]

    def agrees(self) -> bool:
        """Return whether the digest equals the entity tag."""
        if "-" not in self._etag:
            return self._part.hexdigest() == self._etag
        if self._filled:
            self._finish_part()
        whole = hashlib.md5(b"".join(self._done), usedforsecurity=False).hexdigest()
        return f"{whole}-{len(self._done)}" == self._etag

    def _finish_part(self) -> None:
        self._done.append(self._part.digest())
        self._part, self._filled = hashlib.md5(usedforsecurity=False), 0


class ChecksumCheck:
    """A checksum of the whole object stored at upload: SHA-256, SHA-1 or CRC-32."""

    is_certain = True

    def __init__(self, name: str, expected: str):
        """Expect a base64 checksum of the kind ``name``."""
        self._expected = expected
        self._state = None if name == "CRC32" else hashlib.new(name, usedforsecurity=False)
        self._crc = 0

    def update(self, content: Any) -> None:
        """Take the next bytes."""
        if self._state is None:
            self._crc = zlib.crc32(content, self._crc)
        else:
            self._state.update(content)

    def agrees(self) -> bool:
        """Return whether the checksum is the expected one."""
        found = self._crc.to_bytes(4, "big") if self._state is None else self._state.digest()
        return b64encode(found).decode() == self._expected


def check_of(client: Any, found: StoredObject) -> StreamCheck | None:
    """Return a check for an object, None if its server gives no checksum.

    Raises:
        DataError: if the request fails.
    """
    with explained(client, found.url):
        head = client.head_object(**found.asked_for(), ChecksumMode="ENABLED")
    # With encryption by KMS or a customer key, the entity tag is not an MD5 of the content.
    is_encrypted = "kms" in head.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in head
    if not is_encrypted and MD5.match(found.etag):
        return EtagCheck(found.etag, max(1, found.bytes))
    if head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        for name in ("SHA256", "SHA1", "CRC32"):
            expected = head.get(f"Checksum{name}", "-")
            if "-" not in expected:  # a hyphen marks a checksum of the parts' checksums
                return ChecksumCheck(name, expected)
    parts = None if is_encrypted else MD5_OF_PARTS.match(found.etag)
    part_bytes = _part_bytes(client, found) if parts else 0
    if parts and part_bytes and -(-found.bytes // part_bytes) == int(parts[1]):
        return EtagCheck(found.etag, part_bytes)
    return None


def _part_bytes(client: Any, found: StoredObject) -> int:
    """Return the size of the first part in bytes, 0 if the server does not give it."""
    from botocore.exceptions import ClientError

    address = Address.of(found.url)
    try:
        result: int = client.head_object(Bucket=address.bucket, Key=address.key, PartNumber=1)["ContentLength"]
        return result
    except ClientError:
        return 0
