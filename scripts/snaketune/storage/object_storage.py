"""Objects on S3-compatible storage: addresses, metadata, and the server's errors as one sentence.

Endpoint, region and credentials come from the usual AWS environment variables and files, or from the role of the
machine. None of them is ever written to a file or a message.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from snaketune.core.errors import ConfigError, DataError

S3_SCHEME = "s3://"
HUB_SCHEME = "hf://"
STORAGE_PACKAGE = "botocore"
INSTALL_STORAGE = "pip install -r envs/extras/storage.txt -c constraints.txt"
# Parts transferred in parallel: eight saturate a fast connection, and each is held in memory.
CONNECTIONS = 8
GONE = {"404", "NotFound", "NoSuchKey"}
DENIED = {"401", "403", "AccessDenied", "AllAccessDisabled", "Forbidden"}
BAD_CREDENTIALS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
    *("RequestTimeTooSkewed", "InvalidSecurity"),
}
OTHER_REGION = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
CHANGED = {"412", "PreconditionFailed"}


@dataclass(frozen=True, slots=True)
class Address:
    """An object in a bucket, or all objects whose key starts with ``key``."""

    bucket: str
    key: str

    @classmethod
    def of(cls, url: str) -> "Address":
        """Return the address of an ``s3://bucket/key`` URL.

        Raises:
            ConfigError: if it has no bucket.
        """
        bucket, _, key = url.removeprefix(S3_SCHEME).partition("/")
        if not url.startswith(S3_SCHEME) or not bucket:
            raise ConfigError(f"{url!r} names no bucket: write s3://bucket/path.")
        return cls(bucket, key)

    def __str__(self) -> str:
        return f"{S3_SCHEME}{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the server describes it: address, size in bytes, and entity tag, which changes with the content."""

    url: str
    bytes: int
    etag: str

    def asked_for(self) -> dict[str, str]:
        """Return the arguments of a request that fails if another object has replaced this one."""
        address = Address.of(self.url)
        return {"Bucket": address.bucket, "Key": address.key, "IfMatch": f'"{self.etag}"'}


def is_remote(path: str) -> bool:
    """Return whether a path is the address of an object, or of a file on the Hugging Face hub."""
    return str(path).startswith((S3_SCHEME, HUB_SCHEME))


def require_storage_package(setting: str) -> None:
    """Check that the package for object storage is installed.

    Raises:
        ConfigError: with the command that installs it.
    """
    if importlib.util.find_spec(STORAGE_PACKAGE) is None:
        raise ConfigError(
            f"{setting} is in object storage, which needs the package {STORAGE_PACKAGE}: {INSTALL_STORAGE}."
        )


def connect() -> Any:
    """Return a client for the storage configured in the environment; without credentials, requests are unsigned.

    Raises:
        ConfigError: if the package is missing, or the environment's settings cannot be used.
    """
    require_storage_package("s3://")
    import botocore.config
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        session = botocore.session.get_session()
        session.register_component("data_loader", _descriptions(session.get_config_variable("data_path")))
        options = {} if session.get_credentials() else {"signature_version": botocore.UNSIGNED}
        # Newer clients add checksums in trailers, which many S3-compatible servers reject; uploads use Content-MD5.
        settings = botocore.config.Config(
            connect_timeout=10,
            read_timeout=30,
            max_pool_connections=2 * CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": 3},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            **options,
        )
        return session.create_client("s3", config=settings)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(
            f"object storage: the AWS settings of this environment cannot be used ({_brief(error)}): correct the AWS_"
            " variables or ~/.aws/config."
        ) from None


@cache
def _descriptions(folders: str | None) -> Any:
    """Return a caching loader of service descriptions, whose parsing is the slowest part of creating a client."""
    import botocore.loaders

    return botocore.loaders.create_loader(folders)


def describe_object(client: Any, url: str) -> StoredObject:
    """Return the server's description of an object.

    Raises:
        DataError: if it does not exist or the request fails.
    """
    address = Address.of(url)
    with explained(client, url):
        head = client.head_object(Bucket=address.bucket, Key=address.key)
    return StoredObject(url, head["ContentLength"], head["ETag"].strip('"'))


def listed_objects(client: Any, prefix: str, below: bool = True, name: str = "") -> Iterator[StoredObject]:
    """Yield the objects whose address starts with ``prefix``; without ``below``, none beyond another slash.

    Errors name ``name`` instead of ``prefix`` if it is given.

    Raises:
        DataError: if the bucket does not exist or may not be listed.
    """
    address = Address.of(prefix)
    options = {} if below else {"Delimiter": "/"}
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=address.bucket, Prefix=address.key, **options)
    with explained(client, name or prefix):
        for page in pages:
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):  # web consoles represent folders by such empty objects
                    url = str(Address(address.bucket, entry["Key"]))
                    yield StoredObject(url, entry["Size"], entry["ETag"].strip('"'))


@contextmanager
def explained(client: Any, url: str) -> Iterator[None]:
    """Turn a failed request into one sentence.

    Raises:
        DataError: with the address, the reason and what to do.
    """
    from botocore import exceptions as errors

    try:
        yield
    except errors.ClientError as error:
        raise DataError(_sentence(str(error.response["Error"].get("Code", "")), client, url)) from None
    except broken_connections() as error:
        raise DataError(
            f"{url}: {_endpoint(client)} cannot be reached ({_brief(error)}): check the network and AWS_ENDPOINT_URL."
        ) from None
    except errors.BotoCoreError as error:
        raise DataError(
            f"{url} cannot be requested ({_brief(error)}): check its bucket's name and the AWS settings of this"
            " environment."
        ) from None


def broken_connections() -> tuple[type[Exception], ...]:
    """Return the exceptions of connections that fail or break, after which another attempt may succeed."""
    from botocore import exceptions as errors

    return (errors.HTTPClientError, errors.ConnectionError, errors.IncompleteReadError, ConnectionError)


def is_missing(error: Exception) -> bool:
    """Return whether a server's error means that the object does not exist."""
    return _code(error) in GONE


def is_passing(error: Exception) -> bool:
    """Return whether a server's error is temporary, so that another attempt may succeed."""
    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or status == 429 or _code(error) in ("SlowDown", "RequestTimeout")


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _sentence(code: str, client: Any, url: str) -> str:
    place = f"{url} at {_endpoint(client)}"
    if code == "NoSuchBucket":
        return f"{place}: no such bucket, {Address.of(url).bucket}: check its name and AWS_ENDPOINT_URL."
    if code in GONE:
        return f"{place} does not exist: check the path."
    if code in CHANGED:
        return (
            f"{url} changed while it was copied: wait until it is completely written, then run the same command again."
        )
    if code in BAD_CREDENTIALS or code == "400":
        return (
            f"{place}: the server refuses the credentials ({code}): renew them (`aws sts get-caller-identity` shows "
            "them)."
        )
    if code in DENIED:
        if _is_anonymous(client):
            return (
                f"{place}: no credentials were found and it is not public: set AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
            )
        return (
            f"{place}: access is denied ({code}): check that it exists and that these credentials may read and list it."
        )
    if code in OTHER_REGION:
        return f"{place} is in another region ({code}): set AWS_REGION to that of the bucket."
    return f"{place}: the server answers {code or 'with an error'}: check the address, or try again later."


def _endpoint(client: Any) -> str:
    """Return the endpoint of requests, without credentials that its URL may contain."""
    parts = urlsplit(client.meta.endpoint_url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _is_anonymous(client: Any) -> bool:
    from botocore import UNSIGNED

    return client.meta.config.signature_version is UNSIGNED


def _brief(error: Exception) -> str:
    """Return the type of an error; its text may contain URLs with credentials."""
    return type(error).__name__
