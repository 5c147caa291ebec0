"""Files of data sets on the Hugging Face hub: their addresses, and verified copies.

An address is ``hf://owner/name[@revision][/path or pattern]``; files are always fetched at a commit.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from snaketune.core.digests import HASHED_AT_ONCE
from snaketune.core.errors import ConfigError, DataError
from snaketune.storage.fetching import Arrived
from snaketune.storage.object_storage import HUB_SCHEME, StoredObject

KIND = "datasets/"
REFERENCES = "refs"
SHA256_DIGITS, SHA1_DIGITS = 64, 40


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A data set of the hub at a revision, and a path or pattern of files in it (empty for all)."""

    repo: str
    revision: str | None = None
    pattern: str = ""

    @classmethod
    def of(cls, url: str) -> "HubAddress":
        """Return the parsed address.

        Raises:
            ConfigError: if it does not name a data set.
        """
        # The revision follows the @ of the last part of the name, which may have one or two parts. A reference such as
        # refs/convert/parquet has slashes itself, as %2F or as they are.
        parts = url.removeprefix(HUB_SCHEME).removeprefix(KIND).strip("/").split("/")
        marked = next((number for number, part in enumerate(parts[:2]) if "@" in part), None)
        length = min(2, len(parts)) if marked is None else marked + 1
        last, _, revision = parts[length - 1].partition("@")
        repo, rest = "/".join([*parts[: length - 1], last]), parts[length:]
        if revision == REFERENCES:
            revision, rest = "/".join([revision, *rest[:2]]), rest[2:]
        if not all(repo.split("/")) or (marked is not None and not revision):
            raise ConfigError(
                f"{url!r} is not a data set of the hub: write hf://owner/name or hf://owner/name@revision."
            )
        return cls(repo, revision.replace("%2F", "/") or None, "/".join(rest))

    def file(self, commit: str, path: str) -> str:
        """Return the address of one file at a commit."""
        return f"{HUB_SCHEME}{self.repo}@{commit}/{path}"


def is_on_hub(path: str) -> bool:
    """Return whether a path is the address of a data set on the hub, or of a file in one."""
    return path.startswith(HUB_SCHEME)


def fetch_from_hub(found: StoredObject, partial: Path, advance: Callable[[int], object]) -> Arrived:
    """Copy a file of the hub to ``partial`` and check it against the hub's digest.

    Args:
        found: address at a commit, size, and the hub's digest (SHA-256, or SHA-1 of a git blob); may be empty.
        partial: the copy, without its final name yet; one process at a time.
        advance: called with the number of bytes processed.

    Raises:
        DataError: if it cannot be fetched or does not match the digest.
    """
    from huggingface_hub import hf_hub_download

    address = HubAddress.of(found.url)
    folder = partial.with_suffix(".hub")
    start = time.perf_counter()
    with in_one_sentence(found.url, DataError):
        fetched = hf_hub_download(
            address.repo, address.pattern, repo_type="dataset", revision=address.revision, local_dir=folder
        )
    rate = found.bytes / max(time.perf_counter() - start, 1e-9)
    digest, theirs = _digests(Path(fetched), found.etag, advance)
    size = Path(fetched).stat().st_size
    if size != found.bytes or (theirs and theirs != found.etag):
        shutil.rmtree(folder)
        raise DataError(f"{found.url} does not match the hub's digest: run the same command again.")
    os.replace(fetched, partial)
    shutil.rmtree(folder)
    return Arrived(partial, digest, 0, rate, bool(theirs))


def _digests(path: Path, expected: str, advance: Callable[[int], object]) -> tuple[str, str]:
    """Return the XXH3-128 of a file, and its digest of the hub's kind (empty if the hub gives none)."""
    state = xxhash.xxh3_128()
    kinds = {SHA256_DIGITS: hashlib.sha256, SHA1_DIGITS: lambda: hashlib.sha1(usedforsecurity=False)}
    theirs = kinds[len(expected)]() if len(expected) in kinds else None
    if theirs and len(expected) == SHA1_DIGITS:
        # Git hashes a blob with this header; files in LFS have the SHA-256 of their plain content instead.
        theirs.update(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb", buffering=0) as file:
        while content := file.read(HASHED_AT_ONCE):
            state.update(content)
            if theirs:
                theirs.update(content)
            advance(len(content))
    return state.hexdigest(), theirs.hexdigest() if theirs else ""


@contextmanager
def in_one_sentence(url: str, kind: type[ConfigError] | type[DataError]) -> Iterator[None]:
    """Turn errors of the hub's client into one that says what to do."""
    from huggingface_hub import errors

    repo = HubAddress.of(url).repo
    try:
        yield
    except errors.GatedRepoError:
        raise kind(
            f"{url} is gated: accept its terms on the page of {repo} on the hub, log in with `hf auth login` and run"
            " the same command again."
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise kind(
            f"{url}: the hub has no data set {repo}, or it is private: correct the name, or log in with `hf auth"
            " login`."
        ) from None
    except errors.RevisionNotFoundError:
        raise kind(f"{url}: {repo} has no such branch, tag or commit: correct the part after the @.") from None
    except errors.EntryNotFoundError:
        raise kind(f"{url}: {repo} has no such file at this revision: correct the path.") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "log in with `hf auth login`" if status in (401, 403) else "run the same command again later"
        raise kind(f"{url}: the hub answered with status {status}: {advice}.") from None
    except (errors.HTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise kind(f"{url}: the connection to the hub failed ({reason}): run the same command again.") from None
