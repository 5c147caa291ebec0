"""Publishing a finished run to the Hugging Face hub: model, adapter and cards in one commit.

A single commit keeps the repository consistent: readers see either the old files or all of the new ones.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.errors import ConfigError, DataError
from snaketune.publish.publishing import checked_files, publish_folder
from snaketune.storage.object_storage import HUB_SCHEME, connect, listed_objects, require_storage_package

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# Weights left by an earlier commit would be loaded together with the new ones.
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".gguf")
_PAGES = ("report.html", "facts.json")


@dataclass(frozen=True, slots=True)
class OnHub:
    """The result of publishing: files and bytes of the commit, files removed, and the page of the repository."""

    files: int
    bytes: int
    removed: int
    page: str


def is_hub(url: str | None) -> bool:
    """Return whether an address is on the hub."""
    return bool(url) and str(url).startswith(HUB_SCHEME)


def repository_of(url: str) -> str:
    """Return ``owner/name`` of ``hf://owner/name``.

    Raises:
        ConfigError: if the address is anything else.
    """
    name = url.removeprefix(HUB_SCHEME).strip("/")
    if not _REPOSITORY.fullmatch(name) or any(bad in name for bad in ("--", "..")) or name.endswith((".git", ".", "-")):
        raise ConfigError(f"paths.publish is {url}: write hf://owner/name, with your user or organisation as owner.")
    return name


def check_hub(url: str, api: Any = None) -> None:
    """Check that a hub login exists; nothing is created yet.

    Raises:
        ConfigError: if it does not, with what to do.
    """
    repository_of(url)
    from huggingface_hub import HfApi, errors

    try:
        with in_one_sentence(url):
            # One request that needs a valid token, before hours of computation.
            (api or HfApi()).whoami()
    except errors.LocalTokenNotFoundError:
        raise ConfigError(
            f"paths.publish {url}: no token of the hub is stored on this machine: log in with `hf auth login`, with a"
            " token that may write."
        ) from None
    except DataError as error:
        raise ConfigError(f"paths.publish {error}") from None


def publish_to_hub(api: Any, folder: Path, url: str, private: bool, say: Callable[[str], object] = print) -> OnHub:
    """Commit the results of a run; files already on the hub are not uploaded again.

    The merged model is at the root, so that ``from_pretrained(owner/name)`` finds it, and the adapter in ``adapter``;
    without a merged model the adapter is at the root. An interruption leaves no partial commit, and files uploaded
    before it are not uploaded again.

    Args:
        api: ``huggingface_hub.HfApi``, which takes the token from its own store.
        folder: folder of the run.
        url: ``hf://owner/name``.
        private: whether a newly created repository is private; an existing one is unchanged.
        say: called with a line about the upload.

    Raises:
        DataError: if a file is damaged, or the hub refuses the upload.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repository, entries = repository_of(url), checked_files(folder)
    files = places_on_hub(entries)
    size = sum(entries[name]["bytes"] for name in files.values())
    with in_one_sentence(url):
        page = str(api.create_repo(repository, private=private, exist_ok=True, repo_type="model"))
        there = set(api.list_repo_files(repository))
        # Only weights are removed: other files may be the owner's.
        stale = sorted(name for name in there - set(files) if _is_stale(name))
        say(f"Uploading {len(files)} files ({size / 1e6:,.1f} MB) to {page}")
        additions = [CommitOperationAdd(name, str(folder / source)) for name, source in files.items()]
        removals = [CommitOperationDelete(name) for name in stale]
        message = f"Run {folder.parent.name} {folder.name}"
        api.create_commit(repository, [*additions, *removals], commit_message=message)
    return OnHub(len(files), size, len(stale), page)


def places_on_hub(names: Mapping[str, Any]) -> dict[str, str]:
    """Return the files of a run that go to the hub: a mapping of paths there to paths in the run's folder."""
    whole = "merged" if any(name.startswith("merged/") for name in names) else "adapter"
    found = {name.removeprefix(f"{whole}/"): name for name in names if name.startswith(f"{whole}/")}
    if whole == "merged":
        found |= {name: name for name in names if name.startswith("adapter/")}
    found |= {name: name for name in names if name in _PAGES or _is_export(name)}
    return dict(sorted(found.items()))


def _is_export(name: str) -> bool:
    return "/" not in name and (name.endswith(".gguf") or name.startswith("Modelfile"))


def _is_stale(name: str) -> bool:
    return name.endswith(_WEIGHTS) and name.count("/") <= 1


@contextmanager
def in_one_sentence(url: str) -> Iterator[None]:
    """Turn errors of the hub's client into a DataError that says what to do."""
    from huggingface_hub import errors

    repository = repository_of(url)
    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "run the same command again later; files that have arrived are not uploaded again"
        if status in (401, 403):
            advice = f"log in with `hf auth login`, with a token that may write to {repository}"
        raise DataError(f"{url}: the hub answered with status {status}: {advice}.") from None
    except (errors.HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{url}: the upload to the hub failed ({reason}): run the same command again.") from None


def check_destination(url: str | None, connect: Callable[[], Any] = connect) -> None:
    """Check that the destination is set and accessible.

    Raises:
        ConfigError: if it is not, with the setting and the reason.
    """
    if not url:
        raise ConfigError(
            "paths.publish is null: set it to hf://owner/name or s3://bucket/path, where `publish` uploads to."
        )
    if is_hub(url):
        return check_hub(url)
    require_storage_package(f"paths.publish: {url}")
    try:
        any(listed_objects(connect(), f"{url.rstrip('/')}/"))
    except (ConfigError, DataError) as error:
        raise ConfigError(f"paths.publish: {error}") from None


def publish_runs(runs: list[dict[str, str]], is_private: bool, work: str) -> None:
    """Publish runs one after the other, all to the hub or all to object storage, and print a line for each.

    Args:
        runs: ``folder`` and ``url`` of each run.
        is_private: whether newly created repositories are private.
        work: folder for state that allows resuming.
    """
    on_hub = [entry for entry in runs if is_hub(entry["url"])]
    for entry in on_hub:
        from huggingface_hub import HfApi

        sent = publish_to_hub(HfApi(), Path(entry["folder"]), entry["url"], is_private)
        print(f"Published {entry['url']}: {sent.files} files, {sent.removed} removed: {sent.page}", flush=True)
    client = None if on_hub else connect()
    for entry in () if on_hub else runs:
        done = publish_folder(client, Path(entry["folder"]), entry["url"], Path(work) / "publish", print)
        print(
            f"Published {entry['url']}: {done.files} of {done.total} files uploaded ({done.bytes / 1e6:,.1f} MB),"
            f" {done.removed} removed.",
            flush=True,
        )
