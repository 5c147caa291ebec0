"""What lies outside the workflow: sources behind globs, model folders, template files, and their digests."""

import glob
import re
import sys
from pathlib import Path
from typing import Any

from snaketune.common.digests import DigestCache
from snaketune.common.errors import ConfigError
from snaketune.config.remote_sources import RemoteSources
from snaketune.config.schema import RunConfig
from snaketune.data.object_storage import is_remote
from snaketune.data.remote_copies import as_entry
from snaketune.model.gguf_file import find_gguf
from snaketune.model.smollm2 import SMOLLM2, packaged_file

BUILTIN = "builtin:"
BUILTIN_SOURCES = ("builtin:quickstart",)
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PANDAS = "pandas.read_{0}(path).to_json('x.jsonl', orient='records', lines=True, force_ascii=False)"
ARCHIVE = "unpack the archive and name the files in it"
CURES = {
    **dict.fromkeys((".zip", ".7z", ".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.xz", ".tar.bz2"), ARCHIVE),
    ".parquet": f"write it as JSON lines, for example {PANDAS.format('parquet')}",
    ".csv": f"write it as JSON lines, for example {PANDAS.format('csv')}",
    ".json": "if it is one JSON array, make it JSON lines with `jq -c '.[]'`, else rename it",
}
TASK_SUFFIXES = (".yaml", ".yml")
TEXT_SUFFIXES = (*SUFFIXES, ".txt")
SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://")
# Reading more than this takes long enough to say what is going on.
NOTABLE_BYTES = 2_000_000_000


class Discovery:
    """Looks up what configurations point at; unchanged files are not read again.

    Args:
        cache: JSON file of the digests of files.
        remote: looks up objects; without one they are asked for and remembered beside the cache.
    """

    def __init__(self, cache: str | Path, remote: RemoteSources | None = None):
        self._cache = DigestCache(cache)
        self._remote = remote or RemoteSources(Path(cache).with_name("remote_sources.json"))
        self._sources: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        self._bytes: dict[tuple[str, ...], int] = {}
        self._texts: dict[tuple[str, ...], list[dict[str, str]]] = {}
        self._files: dict[tuple[str, ...], list[dict[str, str]]] = {}
        self._outside: dict[str, Any] = {}

    def look_up(self, config: RunConfig) -> None:
        """Find and digest everything that ``config`` points at.

        Raises:
            ConfigError: if a source, a file of evaluation texts, a model folder or a template file cannot be used.
        """
        key = tuple(config.data.sources)
        if key not in self._sources:
            self._sources[key] = self._find(config.data.sources)
        texts = tuple(config.split.decontaminate)
        if texts not in self._texts:
            found = expand(config.split.decontaminate, "split.decontaminate", TEXT_SUFFIXES)
            self._texts[texts] = [
                {"path": path, "digest": self._digest(Path(path), "split.decontaminate")} for path in found
            ]
        self._files |= {
            ("evaluate.files", *config.evaluate.files): self._found(config.evaluate.files, "evaluate.files", SUFFIXES),
            ("evaluate.tasks", *config.evaluate.tasks): self._found(
                config.evaluate.tasks, "evaluate.tasks", TASK_SUFFIXES
            ),
        }
        for path in (config.model.name_or_path, config.tokens.chat_template or ""):
            if path and path not in self._outside:
                self._outside[path] = self._digest_outside(path)

    def sources(self, config: RunConfig) -> list[dict[str, Any]]:
        """Return ``[{path, digest}]`` of the run's sources, in the order of the configuration.

        The digest of an object is its entity tag, and its size in ``bytes`` is there, too.
        """
        return self._sources[tuple(config.data.sources)]

    def bytes_of(self, config: RunConfig) -> int:
        """Return the size of the run's source files, in bytes."""
        key = tuple(config.data.sources)
        if key not in self._bytes:
            files = [source for source in self._sources[key] if not source["path"].startswith(BUILTIN)]
            sizes = (file["bytes"] if "bytes" in file else Path(file["path"]).stat().st_size for file in files)
            self._bytes[key] = sum(sizes)
        return self._bytes[key]

    def outside(self, stage: str, config: RunConfig) -> dict[str, Any]:
        """Return what a stage's spec needs to know about content outside the workflow."""
        if stage == "stage_sources":
            return {"sources": self.sources(config)}
        if stage == "split_records" and config.split.decontaminate:
            return {"evaluations": self._texts[tuple(config.split.decontaminate)]}
        if stage == "evaluate_model":
            found = {
                "evaluation_files": self._files["evaluate.files", *config.evaluate.files],
                "evaluation_tasks": self._files["evaluate.tasks", *config.evaluate.tasks],
            }
            return {name: entries for name, entries in found.items() if entries}
        if stage == "prepare_model" and self._outside.get(config.model.name_or_path):
            return {"digest": self._outside[config.model.name_or_path]}
        template = config.tokens.chat_template
        if stage == "tokenize_records" and template and self._outside.get(template):
            return {"digest": self._outside[template]}
        return {}

    def save(self) -> None:
        """Keep the digests for the next invocation, and the objects for the jobs."""
        self._cache.save()
        self._remote.save()

    def _find(self, patterns: list[str]) -> list[dict[str, Any]]:
        """Return the entries of files and objects, none twice."""
        found: dict[str, dict[str, Any]] = {}
        for pattern in patterns:
            if is_remote(pattern):
                objects = self._remote.find(pattern, "data.sources")
                check_suffixes([one.url for one in objects], "data.sources", SUFFIXES)
                entries = [as_entry(one) for one in objects]
            else:
                entries = [self._describe(path) for path in expand([pattern])]
            found |= {entry["path"]: entry for entry in entries if entry["path"] not in found}
        return list(found.values())

    def _describe(self, path: str) -> dict[str, str]:
        return {"path": path, "digest": "builtin" if path.startswith(BUILTIN) else self._digest(Path(path))}

    def _found(self, patterns: list[str], key: str, suffixes: tuple[str, ...]) -> list[dict[str, str]]:
        return [{"path": path, "digest": self._digest(Path(path), key)} for path in expand(patterns, key, suffixes)]

    def _digest(self, path: Path, key: str = "data.sources") -> str:
        try:
            if path.stat().st_size > NOTABLE_BYTES and not self._cache.knows(path):
                print(f"Reading {path} once to know its content ({path.stat().st_size / 1e9:.1f} GB).", file=sys.stderr)
            return self._cache.digest(path)
        except OSError as error:
            raise ConfigError(f"{key}: {path} cannot be read ({error.strerror}): check its permissions.") from None

    def _digest_outside(self, name: str) -> str | None:
        path = Path(name).expanduser()
        if gguf := packaged_file() if name == SMOLLM2 else find_gguf(path):
            return self._digest(gguf, "model.name_or_path")
        if path.is_dir():
            return self._cache.folder_digest(path)
        return self._cache.digest(path) if path.suffix == ".jinja" and path.is_file() else None


def expand(sources: list[str], key: str = "data.sources", suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """Return the files behind paths and globs: in the given order, a glob's matches sorted, none twice.

    Args:
        sources: what the configuration says under ``key``.
        key: what errors name.
        suffixes: which files it may be.

    Raises:
        ConfigError: if a source does not exist, matches nothing, is a folder or has an unknown suffix.
    """
    return list(dict.fromkeys(path for source in sources for path in _expand_one(source, key, suffixes)))


def _expand_one(source: str, key: str, suffixes: tuple[str, ...]) -> list[str]:
    if source.startswith(BUILTIN) and key == "data.sources":
        if source not in BUILTIN_SOURCES:
            raise ConfigError(f"{key}: there is no {source!r}: use {BUILTIN_SOURCES[0]} or a path.")
        return [source]
    if found_scheme := SCHEME.match(source):
        raise ConfigError(_no_address(source, key, found_scheme[0]))
    path = Path(source).expanduser()
    if path.is_dir():
        raise ConfigError(
            f"{key}: {source} is a folder: name its files, for example {source.rstrip('/')}/*{suffixes[0]}."
        )
    found = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - a pattern may be absolute
    if not found:
        raise ConfigError(
            f"{key}: {source} does not exist: check the path; relative paths start at {Path.cwd().name}/."
        )
    check_suffixes(found, key, suffixes)
    return found


def check_suffixes(names: list[str], key: str, suffixes: tuple[str, ...]) -> None:
    """Refuse names that do not end as they should.

    Raises:
        ConfigError: naming the first and what to do with it.
    """
    for name in names:
        if not name.endswith(suffixes):
            cure = next((cure for end, cure in CURES.items() if name.endswith(end)), "convert it to JSON lines first")
            cure = "name task files of lm-evaluation-harness" if suffixes == TASK_SUFFIXES else cure
            raise ConfigError(f"{key}: {name} is not {' or '.join(suffixes)}: {cure}.")


def _no_address(source: str, key: str, scheme: str) -> str:
    if is_remote(source):
        return f"{key}: {source} is in object storage, which data.sources alone may be: copy it here and name the copy."
    return f"{key}: {source}: nothing is read from {scheme}: name a file or, in data.sources, an object as s3://bucket/path."
