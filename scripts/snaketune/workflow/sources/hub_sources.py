"""Data sets of the Hugging Face hub as found when the workflow starts: a commit, and files at that commit.

Code of a data set is never run, so data that a loading script would generate are not available. The data set's card
(``configs`` in the head of its README.md) decides which files belong to a configuration and a split, else their names.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from snaketune.core.cached_state import keep
from snaketune.core.canonical import canonical_text, read_json
from snaketune.core.errors import ConfigError, say
from snaketune.core.reachability import connection_problem, first_hop
from snaketune.storage.hub_files import HubAddress, in_one_sentence
from snaketune.workflow.sources.matching_files import DATA_FILE_NAME, DESCRIPTIONS, choose_split, listed_paths
from snaketune.workflow.sources.remote_sources import WILDCARD, translate

ENDPOINT = "https://huggingface.co"
DEFAULT_SPLIT = "train"
REQUEST_SECONDS = 20.0
DATASET_CARD = "README.md"
YAML_HEADER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
COMMIT = re.compile(r"[0-9a-f]{40}")
# The branch where the hub keeps its own conversion of a data set with a loading script.
CONVERTED = "refs/convert/parquet"
OFFLINE = ("1", "ON", "YES", "TRUE")


class HubSources:
    """Looks up data sets of the hub.

    Args:
        memory: cache file, for the jobs' own processes and for repeats without a network.
        is_asking: whether to ask the hub even if the cache has an entry.
        environment: the process's, for ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE``.
    """

    def __init__(self, memory: str | Path, is_asking: bool = True, environment: Mapping[str, str] = os.environ):
        self._memory, self._is_asking, self._environment = Path(memory), is_asking, environment
        self._found: dict[str, dict[str, Any]] = {}

    def find(self, url: str, key: str, split: str | None = None, config: str | None = None) -> dict[str, Any]:
        """Return ``{commit, entries, notes}`` of a data set; an entry has ``path``, ``bytes`` and ``digest``.

        Raises:
            ConfigError: if the hub is unreachable or refuses, or no file matches.
        """
        name = canonical_text([url, split, config])
        if name not in self._found:
            remembered = self._remembered().get(name)
            # A commit never changes, so the cache suffices without a request.
            is_pinned = COMMIT.fullmatch(HubAddress.of(url).revision or "") is not None
            if remembered is None or (self._is_asking and not is_pinned):
                remembered = self._ask(url, key, split, config, remembered)
            self._found[name] = remembered
        return self._found[name]

    def save(self) -> None:
        """Write the cache."""
        if self._is_asking and self._found and not self._found.items() <= self._remembered().items():
            keep(self._memory, self._remembered() | self._found)

    def _remembered(self) -> dict[str, Any]:
        try:
            known = read_json(self._memory)
        except FileNotFoundError:
            return {}
        except ValueError:
            known = None
        if isinstance(known, dict) and all(isinstance(found, dict) for found in known.values()):
            return known
        say(f"{self._memory} is damaged: asking the hub again.")
        return {}

    def _ask(
        self, url: str, key: str, split: str | None, config: str | None, remembered: dict[str, Any] | None
    ) -> dict[str, Any]:
        problem = self._problem()
        if problem and remembered:
            note = f"{key}: {url}: {problem}; using commit {remembered['commit'][:12]} from the cache."
            return {**remembered, "notes": [*remembered["notes"], note]}
        if problem:
            repo = HubAddress.of(url).repo
            raise ConfigError(
                f"{key}: {url}: {problem}: on a machine with network access run `hf download {repo} --repo-type dataset"
                " --local-dir FOLDER`, and use that folder."
            )
        place = f"{key}: {url}"
        with in_one_sentence(url, ConfigError):
            return _found_files(url, place, split, config)

    def _problem(self) -> str:
        """Return why the hub cannot be asked, or an empty string."""
        if self._environment.get("HF_HUB_OFFLINE", "").upper() in OFFLINE:
            return "HF_HUB_OFFLINE is set"
        endpoint = self._environment.get("HF_ENDPOINT") or ENDPOINT
        problem = connection_problem(*first_hop(endpoint))
        return f"the hub {endpoint} cannot be reached ({problem})" if problem else ""


def _found_files(url: str, place: str, split: str | None, config: str | None) -> dict[str, Any]:
    from huggingface_hub import HfApi

    address = HubAddress.of(url)
    info = HfApi().dataset_info(address.repo, revision=address.revision, timeout=REQUEST_SECONDS, files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or []}
    commit = str(info.sha)
    card = _configs(address, commit) if DATASET_CARD in files and not address.pattern else {}
    chosen, notes = _chosen(address, place, sorted(files), card, split, config)
    # The listing of a gated data set is public, its files are not: one request per run tells before any job starts.
    if info.gated:
        _metadata(address, commit, chosen[0])  # tells whether this user may read it
    entries = [_entry(address, commit, files[name]) for name in chosen]
    resolved = f"{place} is commit {commit[:12]}: {len(chosen):,} file{'' if len(chosen) == 1 else 's'}."
    return {"commit": commit, "entries": entries, "notes": [resolved, *notes]}


def _entry(address: HubAddress, commit: str, file: Any) -> dict[str, Any]:
    """Return what a spec says of a file."""
    size, digest = file.size, (file.lfs.sha256 if file.lfs else file.blob_id) or ""
    if size is None:
        found = _metadata(address, commit, file.rfilename)
        size, digest = found.size or 0, found.etag or ""
    return {"path": address.file(commit, file.rfilename), "bytes": size, "digest": f"etag {digest}"}


def _metadata(address: HubAddress, commit: str, path: str) -> Any:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    place = hf_hub_url(address.repo, path, repo_type="dataset", revision=commit)
    return get_hf_file_metadata(place, timeout=REQUEST_SECONDS)


def _chosen(
    address: HubAddress,
    place: str,
    names: list[str],
    card: dict[str, dict[str, list[str]]],
    split: str | None,
    config: str | None,
) -> tuple[list[str], list[str]]:
    """Return the selected files and notes on those left out.

    Raises:
        ConfigError: if there are none, or it is not clear which.
    """
    if address.pattern:
        chosen = _matching(address.pattern, names)
        if not chosen:
            raise ConfigError(f"{place} matches no file: its data files are {listed_paths(_data(names)) or 'none'}.")
        if split or config:
            raise ConfigError(f"{place} names files: remove `split` and `config`, or the path in the address.")
        return chosen, []
    if card:
        return _of_card(place, names, card, split, config)
    if config:
        raise ConfigError(f"{place}: its card names no configurations: remove `config: {config}`.")
    data = _data(names)
    if not data:
        script = any(name.endswith(".py") for name in names)
        cure = f"try @{CONVERTED}, the hub's converted copy" if script else "choose another data set"
        found = (
            "only a loading script, which is not run"
            if script
            else f"no data files, {listed_paths(names) or 'nothing'}"
        )
        raise ConfigError(f"{place} has {found}: {cure}.")
    chosen, others = choose_split(data, split, place)
    notes = [f"{place}: the files of other splits are left out: {listed_paths(others)}; set `split:` to select others."]
    return chosen, notes if others else []


def _of_card(
    place: str, names: list[str], card: dict[str, dict[str, list[str]]], split: str | None, config: str | None
) -> tuple[list[str], list[str]]:
    own = config or ("default" if "default" in card else next(iter(card)) if len(card) == 1 else None)
    if own is None or own not in card:
        what = f"has no configuration {config!r}" if config else "has several configurations"
        raise ConfigError(f"{place} {what}: write `config:` with one of {', '.join(card)}.")
    splits = card[own]
    wanted = split or (DEFAULT_SPLIT if DEFAULT_SPLIT in splits or len(splits) > 1 else next(iter(splits)))
    if wanted not in splits:
        raise ConfigError(f"{place} has no split {wanted!r}: write `split:` with one of {', '.join(splits)}.")
    chosen = list(dict.fromkeys(name for pattern in splits[wanted] for name in _matching(pattern, names)))
    if not chosen:
        raise ConfigError(f"{place}: no file is what its card names for {wanted!r}: {', '.join(splits[wanted])}.")
    others = [one for one in splits if one != wanted]
    note = f"{place}: the split {wanted!r} is read; left out: {listed_paths(others)}; set `split:` to select others."
    return chosen, [note] if others else []


def _matching(pattern: str, names: list[str]) -> list[str]:
    """Return the files behind a path, a folder or a pattern."""
    if not WILDCARD.search(pattern):
        inside = [name for name in names if name.startswith(f"{pattern.rstrip('/')}/")]
        return [pattern] if pattern in names else _data(inside)
    wanted = re.compile(translate(pattern))
    return [name for name in names if wanted.match(name)]


def _data(names: list[str]) -> list[str]:
    return [
        name for name in names if DATA_FILE_NAME.search(name) and not DESCRIPTIONS.fullmatch(name.rpartition("/")[2])
    ]


def _configs(address: HubAddress, commit: str) -> dict[str, dict[str, list[str]]]:
    """Return the file patterns by configuration and split from the card of a data set."""
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(address.repo, DATASET_CARD, repo_type="dataset", revision=commit)
    head = YAML_HEADER.match(Path(path).read_text("utf-8", "replace"))
    try:
        values = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        values = None
    configs = values.get("configs") if isinstance(values, dict) else None
    found: dict[str, dict[str, list[str]]] = {}
    for one in configs if isinstance(configs, list) else []:
        if isinstance(one, dict) and (splits := _splits(one.get("data_files"), str(one.get("data_dir") or ""))):
            found[str(one.get("config_name", "default"))] = splits
    defaults = [str(one.get("config_name")) for one in configs or [] if isinstance(one, dict) and one.get("default")]
    # A configuration that the card marks as the default, under whatever name.
    return {"default": found[defaults[0]], **found} if defaults and defaults[0] in found else found


def _splits(files: Any, folder: str) -> dict[str, list[str]]:
    """Return the patterns by split under ``data_files`` in a card."""
    if isinstance(files, str):
        files = [files]
    if not isinstance(files, list):
        return {}
    splits: dict[str, list[str]] = {}
    for one in files:
        entry = one if isinstance(one, dict) else {"split": DEFAULT_SPLIT, "path": one}
        paths = entry.get("path")
        for path in [paths] if isinstance(paths, str) else paths if isinstance(paths, list) else []:
            splits.setdefault(str(entry.get("split", DEFAULT_SPLIT)), []).append(f"{folder}/{path}".lstrip("/"))
    return splits
