"""Inputs from outside the workflow: sources behind globs, model folders, template files, and their digests."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snaketune.config.method_checks import reward_files
from snaketune.config.schema import RunConfig
from snaketune.config.schema_sources import SourceConfig, options_of, path_of
from snaketune.core.atomic import could_be_path, require_path
from snaketune.core.canonical import canonical_text
from snaketune.core.digests import DigestCache
from snaketune.core.errors import ConfigError
from snaketune.model.folder import files_beside_weights
from snaketune.model.gguf.gguf_file import find_gguf
from snaketune.model.smollm2 import SMOLLM2, packaged_file
from snaketune.storage.hub_files import is_on_hub
from snaketune.storage.object_storage import HUB_SCHEME, is_remote
from snaketune.storage.remote_copies import as_entry
from snaketune.workflow.sources.hub_sources import HubSources
from snaketune.workflow.sources.matching_files import DATA_FILE_NAME, Found, find_files, unreadable
from snaketune.workflow.sources.remote_sources import RemoteSources

BUILTIN_PREFIX = "builtin:"
BUILTIN_SOURCES = ("builtin:quickstart", "builtin:pairs", "builtin:labels")
TASK_SUFFIXES = (".yaml", ".yml")
URL_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://")
# Owner and name of a data set on the hub.
BARE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# Reading more than this takes long enough for a progress note.
NOTABLE_BYTES = 2_000_000_000


class ExternalInputs:
    """Finds and digests what configurations refer to; unchanged files are not read again.

    Args:
        cache: JSON file of the digests of files.
        remote: looks up objects; by default with its cache beside ``cache``.
        hub: looks up data sets of the hub, likewise.
    """

    def __init__(self, cache: str | Path, remote: RemoteSources | None = None, hub: HubSources | None = None):
        self._cache = DigestCache(cache)
        self._hub = hub or HubSources(Path(cache).with_name("hub_sources.json"))
        self._remote = remote or RemoteSources(Path(cache).with_name("remote_sources.json"))
        self._sources: dict[str, list[dict[str, Any]]] = {}
        self._places: dict[str, list[dict[str, Any]]] = {}
        self._bytes: dict[str, int] = {}
        self._texts: dict[tuple[str, ...], list[dict[str, str]]] = {}
        self._files: dict[tuple[str, ...], list[dict[str, str]]] = {}
        self._outside: dict[str, Any] = {}
        self._tokenizers: dict[tuple[str, bool], str] = {}
        self.notes: dict[str, None] = {}  # in order, without repeats

    def look_up(self, config: RunConfig) -> None:
        """Find and digest everything that ``config`` points at.

        Raises:
            ConfigError: if a source, a file of evaluation texts, a model folder or a template file cannot be used.
        """
        self.sources(config)
        texts = tuple(config.split.decontaminate)
        if texts not in self._texts:
            key = "split.decontaminate"
            found = expand_paths(config.split.decontaminate, key)
            self._texts[texts] = [{"path": path, "digest": self._digest(Path(path), key)} for path in found]
        self._files |= {
            ("evaluate.files", *config.evaluate.files): self._found(config.evaluate.files, "evaluate.files", ()),
            ("evaluate.tasks", *config.evaluate.tasks): self._found(
                config.evaluate.tasks, "evaluate.tasks", TASK_SUFFIXES
            ),
        }
        require_path(config.model.name_or_path, "model.name_or_path")
        for path in (config.model.name_or_path, config.tokens.chat_template or "", *reward_files(config.train)):
            if path and path not in self._outside:
                self._outside[path] = self._digest_outside(path)
        folder, model = Path(config.model.name_or_path).expanduser(), _model_key(config)
        if model not in self._tokenizers and folder.is_dir() and not find_gguf(folder):
            files = files_beside_weights(folder, config.model.trust_remote_code)
            self._tokenizers[model] = self._cache.digest_of_files(folder, files)

    def find_sources(self, config: RunConfig) -> None:
        """Find the sources of ``config`` without reading them, to inspect their beginnings.

        Raises:
            ConfigError: if a source cannot be used.
        """
        key = _key(config)
        if key not in self._places:
            self._places[key] = self._find(config.data.sources)

    def places(self, config: RunConfig) -> list[dict[str, Any]]:
        """Return the run's sources as :meth:`sources` does, files without the digest of their content."""
        self.find_sources(config)
        return self._places[_key(config)]

    def sources(self, config: RunConfig) -> list[dict[str, Any]]:
        """Return ``[{path, digest}]`` of the run's sources, in the order of the configuration.

        The digest of an object is its entity tag; its size is in ``bytes``.
        """
        key = _key(config)
        if key not in self._sources:
            self._sources[key] = [self._with_digest(entry) for entry in self.places(config)]
        return self._sources[key]

    def bytes_of(self, config: RunConfig) -> int:
        """Return the size of the run's source files, in bytes."""
        key = _key(config)
        if key not in self._bytes:
            files = [source for source in self.places(config) if not source["path"].startswith(BUILTIN_PREFIX)]
            sizes = (file["bytes"] if "bytes" in file else Path(file["path"]).stat().st_size for file in files)
            self._bytes[key] = sum(sizes)
        return self._bytes[key]

    def outside(self, stage: str, config: RunConfig) -> dict[str, Any]:
        """Return the part of a stage's spec that describes content outside the workflow."""
        if _key(config) in self._places and _key(config) not in self._sources:
            self.look_up(config)  # so far its sources were found, not read
        if stage == "stage_sources":
            return {"sources": self.sources(config)}
        if stage == "split_records":
            return self._outside_of_split(config)
        if stage == "evaluate_model":
            found = {
                "evaluation_files": self._files["evaluate.files", *config.evaluate.files],
                "evaluation_tasks": self._files["evaluate.tasks", *config.evaluate.tasks],
            }
            return {name: entries for name, entries in found.items() if entries}
        if stage == "prepare_tokenizer" and (own := self._tokenizers.get(_model_key(config))):
            return {"digest": own}
        if stage in ("prepare_tokenizer", "prepare_model") and self._outside.get(config.model.name_or_path):
            return {"digest": self._outside[config.model.name_or_path]}
        if stage == "train_model" and (files := reward_files(config.train)):
            return {"rewards": {file: self._outside[file] for file in files}}
        if stage == "tokenize_records" and (template := self._outside.get(config.tokens.chat_template or "")):
            return {"digest": template}
        return {}

    def _outside_of_split(self, config: RunConfig) -> dict[str, Any]:
        texts = self._texts[tuple(config.split.decontaminate)] if config.split.decontaminate else []
        weights = [entry.get("options", {}).get("weight", 1.0) for entry in self._places.get(_key(config), ())]
        mixing = {"weights": weights, "seed": config.data.seed} if any(weight != 1 for weight in weights) else {}
        return {**({"evaluations": texts} if texts else {}), **({"mixing": mixing} if mixing else {})}

    def save(self) -> None:
        """Save the digests for the next invocation, and the objects for the jobs."""
        self._cache.save()
        self._remote.save()
        self._hub.save()

    def _find(self, sources: Sequence[str | SourceConfig]) -> list[dict[str, Any]]:
        """Return the entries of files and objects, without repeats."""
        found: dict[str, dict[str, Any]] = {}
        again: dict[str, str] = {}
        for part, source in enumerate(sources):
            options, place = options_of(source), {"part": part} if part else {}
            for entry in self._entries(source):
                entry |= {**({"options": options} if options else {}), **place}
                known = found.setdefault(_same_file(entry["path"]), entry)
                if known is not entry:
                    self._refuse_contradiction(known, entry)
                    again.setdefault(entry["path"], path_of(source))
        if again:
            path, pattern = next(iter(again.items()))
            others = f" (and {len(again) - 1:,} more files)" if len(again) > 1 else ""
            self.notes[
                f"data.sources: {path} is matched again by {pattern}{others}: it is read once; `weight` repeats it."
            ] = None
        return list(found.values())

    def _entries(self, source: str | SourceConfig) -> list[dict[str, Any]]:
        path = path_of(source)
        split, config = (None, None) if isinstance(source, str) else (source.split, source.config)
        if is_on_hub(path) or self._is_bare_name(path):
            url = path if is_on_hub(path) else f"{HUB_SCHEME}{path}"
            found_there = self._hub.find(url, "data.sources", split, config)
            self.notes.update(dict.fromkeys(found_there["notes"]))
            return [dict(entry) for entry in found_there["entries"]]
        if config:
            raise ConfigError(f"data.sources: {path}: only data sets of the hub have a `config`: remove it.")
        if is_remote(path):
            found_objects = self._remote.find(path, "data.sources", split)
            self.notes.update(self._remote.notes)
            return [as_entry(one) for one in found_objects]
        found = _expand_one(path, "data.sources", (), split)
        self.notes.update(dict.fromkeys(found.notes))
        return [{"path": one} for one in found.paths]

    def _is_bare_name(self, path: str) -> bool:
        """Tell whether a source that is not a file here has the form of a data set's name on the hub, and say so."""
        is_name = BARE_NAME.fullmatch(path) is not None and not DATA_FILE_NAME.search(path)
        if not is_name or os.path.lexists(path) or os.path.lexists(path.split("/")[0]):
            return False
        self.notes[f"data.sources: {path} is not a file here; it is read as the hub data set hf://{path}."] = None
        return True

    def _refuse_contradiction(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        if one.get("options", {}) != other.get("options", {}):
            raise ConfigError(
                f"data.sources: {other['path']} is given twice with different settings: list it once, or exclude it "
                "from one of the patterns."
            )

    def _with_digest(self, entry: dict[str, Any]) -> dict[str, Any]:
        path = entry["path"]
        if "digest" in entry:
            return entry
        digest = "builtin" if path.startswith(BUILTIN_PREFIX) else self._digest(Path(path))
        return {"path": path, "digest": digest, **entry}

    def _found(self, patterns: list[str], key: str, suffixes: tuple[str, ...]) -> list[dict[str, str]]:
        paths = expand_paths(patterns, key, suffixes)
        return [{"path": path, "digest": self._digest(Path(path), key)} for path in paths]

    def _digest(self, path: Path, key: str = "data.sources") -> str:
        try:
            if path.stat().st_size > NOTABLE_BYTES and not self._cache.knows(path):
                print(f"Reading {path} to compute its digest ({path.stat().st_size / 1e9:.1f} GB).", file=sys.stderr)
            return self._cache.digest(path)
        except OSError as error:
            raise unreadable(str(path), key, error) from None

    def _digest_outside(self, name: str) -> str | None:
        if not could_be_path(name):  # a template written in the configuration itself
            return None
        path = Path(name).expanduser()
        if gguf := packaged_file() if name == SMOLLM2 else find_gguf(path):
            return self._digest(gguf, "model.name_or_path")
        if path.is_dir():
            return self._cache.folder_digest(path)
        return self._cache.digest(path) if path.suffix in (".jinja", ".py") and path.is_file() else None


def _key(config: RunConfig) -> str:
    return canonical_text(config.data.model_dump(mode="json", include={"sources"}))


def _model_key(config: RunConfig) -> tuple[str, bool]:
    return config.model.name_or_path, config.model.trust_remote_code


def _same_file(path: str) -> str:
    """Return one name for all names of a file."""
    return path if URL_SCHEME.match(path) or path.startswith(BUILTIN_PREFIX) else os.path.realpath(path)


def expand_paths(sources: list[str], key: str = "data.sources", suffixes: tuple[str, ...] = ()) -> list[str]:
    """Return the files behind paths, folders and globs: in the given order, a glob's matches sorted, none twice.

    Args:
        sources: the configured values of ``key``.
        key: the key, for errors.
        suffixes: allowed endings of file names, any if empty.

    Raises:
        ConfigError: if a source does not exist, matches nothing, is not a file or has an unknown suffix.
    """
    return list(dict.fromkeys(path for source in sources for path in _expand_one(source, key, suffixes).paths))


def _expand_one(source: str, key: str, suffixes: tuple[str, ...] = (), split: str | None = None) -> Found:
    if source.startswith(BUILTIN_PREFIX) and key == "data.sources":
        if source not in BUILTIN_SOURCES:
            raise ConfigError(f"{key}: there is no {source!r}: use {BUILTIN_SOURCES[0]} or a path.")
        return Found([source])
    if found_scheme := URL_SCHEME.match(source):
        raise ConfigError(_no_address(source, key, found_scheme[0]))
    require_path(source, key)
    if suffixes and Path(source).expanduser().is_dir():
        raise ConfigError(
            f"{key}: {source} is a folder: name its files, for example {source.rstrip('/')}/*{suffixes[0]}."
        )
    found = find_files(source, key, split)
    check_suffixes(found.paths, key, suffixes)
    return found


def check_suffixes(names: list[str], key: str, suffixes: tuple[str, ...]) -> None:
    """Refuse names with other endings.

    Raises:
        ConfigError: naming the first and what to do with it.
    """
    for name in names:
        if suffixes and not name.lower().endswith(suffixes):
            cure = "name task files of lm-evaluation-harness" if suffixes == TASK_SUFFIXES else "write its texts to one"
            raise ConfigError(f"{key}: {name} is not {' or '.join(suffixes)}: {cure}.")


def _no_address(source: str, key: str, scheme: str) -> str:
    if is_on_hub(source):
        return f"{key}: {source} is on the hub, which only data.sources supports: download it with `hf download`."
    if is_remote(source):
        return f"{key}: {source} is in object storage, which only data.sources supports: use a local copy."
    return f"{key}: {source}: {scheme} is not supported: name a file or, in data.sources, an object s3://bucket/path."
