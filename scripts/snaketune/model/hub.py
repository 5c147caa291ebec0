"""A model of the Hugging Face hub: its revision is pinned to a commit, and its files are fetched at that commit.

Before the hub's client is loaded, the standard library checks whether the hub is reachable: without a network the
client retries for minutes, whereas the user should know within a second what to do.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snaketune.core.errors import ConfigError
from snaketune.core.reachability import connection_problem as _connection_problem
from snaketune.core.reachability import first_hop
from snaketune.model.folder import CODE_PATTERNS, SUPPORT_PATTERNS, refuse_remote_code
from snaketune.model.model_metadata import CARD, LICENCE_PATTERNS
from snaketune.model.weights import refuse_unsafe_weights

HUB_SECONDS = 20.0
DEFAULT_REVISION = "main"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)

WEIGHT_PATTERN = "*.safetensors"
# A star in the client's patterns matches slashes, too. Files in subfolders, and those named consolidated, are copies of
# the weights in other formats.
NOT_FETCHED = ("consolidated*", "*/*.safetensors", "*/*.json", "*/*.txt", "*/*.model", "*/*.py")


@dataclass(frozen=True)
class Snapshot:
    """A downloaded model of the hub: the requested revision, its commit, and the folder of its files."""

    repo: str
    revision: str
    commit: str
    folder: Path


def fetch_snapshot(repo: str, revision: str | None, trust_remote_code: bool, weights: bool = True) -> Snapshot:
    """Download the files of ``repo`` at ``revision`` that transformers needs into the hub's cache, or find them there.

    The small files come first, so that an unsuitable model is refused before its weights are downloaded. With
    ``HF_HUB_OFFLINE=1`` only the cache is used. Without ``weights`` only the small files are fetched.

    Raises:
        ConfigError: if the hub cannot be reached, or the repository, the revision or the cached copy does not
            exist, is not accessible or cannot be used.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import validate_repo_id

    revision = revision or DEFAULT_REVISION
    with _one_sentence(repo, revision):
        validate_repo_id(repo)
    support = [*SUPPORT_PATTERNS, CARD, *LICENCE_PATTERNS, *(CODE_PATTERNS if trust_remote_code else ())]
    everything = [*support, WEIGHT_PATTERN] if weights else support
    if constants.HF_HUB_OFFLINE:
        return _cached_snapshot(repo, revision, everything)
    ensure_reachable(constants.ENDPOINT, repo)
    refuse_unsafe_weights(repo, list_files(repo, revision))
    # Downloading by name makes the cache record the commit of the revision, so that it is found again offline. The
    # folder is named after that commit, and the weights are fetched at it even if the branch moves meanwhile.
    folder = _download(repo, revision, support)
    if not trust_remote_code:
        refuse_remote_code(folder)
    commit = folder.name
    return Snapshot(repo, revision, commit, _download(repo, commit, everything))


def ensure_reachable(endpoint: str, repo: str) -> None:
    """Raise ConfigError within a second if neither the hub's ``endpoint`` nor its proxy accepts a connection."""
    host, port = first_hop(endpoint)
    problem = _connection_problem(host, port)
    if problem:
        raise ConfigError(
            f"model.name_or_path {repo}: the hub {endpoint} cannot be reached ({problem}); download the model's folder"
            " on a machine with network access and give its path, or set HF_HUB_OFFLINE=1 to use the local cache."
        )


def list_files(repo: str, revision: str) -> list[str]:
    """Return the names of the files of ``repo`` at ``revision``.

    Raises:
        ConfigError: if the repository or revision does not exist, or this user may not read it.
    """
    from huggingface_hub import HfApi

    with _one_sentence(repo, revision):
        info = HfApi().model_info(repo, revision=revision, timeout=HUB_SECONDS)
    return [file.rfilename for file in info.siblings or []]


def _download(repo: str, revision: str, allowed: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    with _one_sentence(repo, revision):
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=allowed, ignore_patterns=list(NOT_FETCHED))
        )


@contextmanager
def _one_sentence(repo: str, revision: str) -> Iterator[None]:
    """Turn errors of the hub's client into a ConfigError that says what to do."""
    from huggingface_hub import errors

    place = f"model.name_or_path {repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ConfigError(
            f"{place} is a gated model: accept its licence on its page on the hub, then log in with `hf auth login` and"
            " run the same command again."
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ConfigError(
            f"{place}: no such folder exists and no such model on the hub, or it is private; correct the name"
            " or log in with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(
            f"model.revision {revision}: {repo} has no such branch or commit; correct it or give {DEFAULT_REVISION}."
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "log in with `hf auth login`" if status in (401, 403) else "run the same command again later"
        raise ConfigError(f"{place}: the hub answered with status {status}; {advice}.") from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"{place}: the connection to the hub failed ({reason}); run the same command again."
        ) from error


def _cached_snapshot(repo: str, revision: str, allowed: list[str]) -> Snapshot:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=allowed, ignore_patterns=list(NOT_FETCHED), local_files_only=True
        )
    except LocalEntryNotFoundError as error:
        raise ConfigError(
            f"model.name_or_path {repo}: HF_HUB_OFFLINE is set and the local cache has no complete copy of revision"
            f" {revision}; unset it to download the model, or give the path of its folder."
        ) from error
    return Snapshot(repo, revision, Path(folder).name, Path(folder))
