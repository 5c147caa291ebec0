"""The files behind a path, a pattern or a folder, found without opening pipes or devices.

A folder stands for the data files in it. Files of other splits, recognised by their names, are left out with a note, so
that data held out by its authors is not trained on unnoticed.
"""

import glob
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from errno import ELOOP, ENOENT
from pathlib import Path
from typing import Any

from snaketune.core.errors import ConfigError
from snaketune.data.sources.source_files import kind_of_path
from snaketune.workflow.sources.bounded_walks import refuse_vast_pattern, walk
from snaketune.workflow.sources.nearest_paths import nearest_path

# Endings of data files, and of compressed ones.
DATA_FILE_NAME = re.compile(
    r"\.(jsonl|ndjson|jsonlines|json|csv|tsv|parquet|arrow|feather)(\.tar)?(\.(gz|zst|xz|bz2|zip))?$", re.IGNORECASE
)
# JSON files that describe a folder and hold no records.
DESCRIPTIONS = re.compile(
    r"(dataset_infos?|dataset_dict|state|metadata|.*config|package|tokenizer.*|index|README)\.json", re.IGNORECASE
)
SPLIT_OF_NAME = {
    "train": ("train", "training"),
    "test": ("test", "tests", "testing"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation", "heldout"),
}
SHOWN_NAMES = 5
# Smaller files are read in seconds, whatever they hold.
LARGE_BYTES = 1 << 30
BEGINNING_BYTES = 1 << 20
# The unit of ``st_blocks``, in bytes; no compressing file system stores text in a thousandth of its length.
STORED_BLOCK, MOST_COMPRESSED = 512, 1000
# The key whose folders stand for training data; folders of other keys stand for held-out data.
SOURCES = "data.sources"
HELD_OUT = ("test", "validation")
SHELL_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(slots=True)
class Found:
    """Paths of files, in order, and notes about them."""

    paths: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_files(source: str, key: str, split: str | None = None) -> Found:
    """Return the files that a path, a pattern or a folder stands for.

    Args:
        source: the configured value; ``~`` and ``$NAME`` are expanded unless a file has that literal name.
        key: what errors name.
        split: the split of a folder; training data by default.

    Raises:
        ConfigError: if there is nothing, or something that is not a regular file.
    """
    given = source if os.path.lexists(source) else _with_variables(source, key)
    path = Path(given)
    if path.is_dir():
        return _files_of_folder(path, key, split) if key == SOURCES else _held_out_files(path, key)
    if os.path.lexists(path):
        _refuse_special(str(path), key)
        found = Found([str(path)])
    else:
        found = _matches(given, key)
    if not found.paths:
        usual = f"check the path; relative paths start at {Path.cwd().name}/."
        near = nearest_path(given)
        raise ConfigError(f"{key}: {source} does not exist: {f'did you mean {near}?' if near else usual}")
    if split:
        raise ConfigError(
            f"{key}: {source} has no splits: remove `split: {split}`, or give the folder of the data set."
        )
    return found


def split_of(name: str) -> str:
    """Return the split named in a file's path: in its own name first, then in those of its folders."""
    for part in reversed(Path(name).parts):
        words = set(re.split(r"[^a-z]+", part.lower()))
        for split, names in SPLIT_OF_NAME.items():
            if words.intersection(names):
                return split
    return ""


def choose_split(names: list[str], split: str | None, place: str) -> tuple[list[str], list[str]]:
    """Return the selected files and those left out.

    By default these are the files of the training split, or those that name no split.

    Raises:
        ConfigError: if no file belongs to the split.
    """
    splits = {name: split_of(name) for name in names}
    if split:
        wanted = next((one for one, others in SPLIT_OF_NAME.items() if split in (one, *others)), split)
        chosen = [name for name in names if splits[name] == wanted or split in Path(name).parts]
    else:
        chosen = [name for name in names if splits[name] == "train"] or [name for name in names if not splits[name]]
    if not chosen:
        known = ", ".join(sorted({one or "files without a split" for one in splits.values()}))
        raise ConfigError(f"{place} has no {split or 'train'} split: write `split:` with one of those it has: {known}.")
    return chosen, [name for name in names if name not in chosen]


def data_files(names: list[str]) -> list[str]:
    """Return the names of data files among the names."""
    return [name for name in names if DATA_FILE_NAME.search(name) and not DESCRIPTIONS.fullmatch(Path(name).name)]


def listed_paths(names: list[str]) -> str:
    """Return names for a note: the first five and how many more there are."""
    return ", ".join(names[:SHOWN_NAMES]) + (
        f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    )


def _with_variables(source: str, key: str) -> str:
    path = os.path.expanduser(source)  # noqa: PTH111 - distinguishes a missing home from a name
    if path.startswith("~"):
        raise ConfigError(f"{key}: {source}: no such home folder: write the path in full.")

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise ConfigError(f"{key}: {source}: the variable {name} is not set: set it or write the path in full.")
        return os.environ[name]

    return SHELL_VARIABLE.sub(value, path)


def _matches(pattern: str, key: str) -> Found:
    found = Found()
    folders = []
    refuse_vast_pattern(pattern, key)
    for path in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - a pattern may be absolute
        if os.path.isdir(path):  # noqa: PTH112 - a pattern gives text
            folders.append(path)
            continue
        _refuse_special(path, key)
        found.paths.append(path)
    if folders and found.paths and "**" not in pattern:
        found.notes.append(f"{key}: {pattern} matches folders, which are left out: {listed_paths(folders)}.")
    if folders and not found.paths:
        raise ConfigError(f"{key}: {pattern} matches only folders: name one of them, or the files in them.")
    return found


def unreadable(path: str, key: str, error: OSError) -> ConfigError:
    """Return the error of a file that was found and cannot be read."""
    cures = {ENOENT: "it was removed meanwhile", ELOOP: "correct the links"}
    cure = cures.get(error.errno or 0, "check its permissions")
    return ConfigError(f"{key}: {path} cannot be read ({error.strerror}): {cure}.")


def _refuse_special(path: str, key: str) -> None:
    """Refuse anything but a regular file; a pipe would block, and a device may be endless."""
    try:
        status = os.stat(path)  # noqa: PTH116 - of text
    except FileNotFoundError:
        target = os.readlink(path)  # noqa: PTH115 - of text
        raise ConfigError(f"{key}: {path} is a link to {target}, which does not exist: correct the link.") from None
    except OSError as error:
        raise unreadable(path, key, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{key}: {path} is {kind_of_path(status)}: name a regular file.")
    if status.st_size > LARGE_BYTES and _is_hollow(path, key, status):
        raise ConfigError(
            f"{key}: {path} has {status.st_size / 1e9:,.1f} GB, nearly all of them zeros that were never written, as an"
            " interrupted download or copy leaves them: get the whole file."
        )


def _is_hollow(path: str, key: str, status: os.stat_result) -> bool:
    """Return whether a large file has hardly any content, so that reading it would take minutes for nothing."""
    stored = status.st_blocks * STORED_BLOCK  # 0 where a file system does not tell
    if 0 < stored < status.st_size / MOST_COMPRESSED:
        return True
    try:
        with open(path, "rb") as file:
            return not any(file.read(BEGINNING_BYTES))
    except OSError as error:
        raise unreadable(path, key, error) from None


def _files_of_folder(folder: Path, key: str, split: str | None, inside: list[str] | None = None) -> Found:
    """Return the files of a split of a folder; ``inside`` are the names in it, where these are known."""
    if (folder / "dataset_dict.json").is_file():
        return _files_of_splits(folder, key, split)
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        if split:
            raise ConfigError(f"{key}: {folder} is a saved data set without splits: remove `split: {split}`.")
        return Found(_files_of_saved(folder, key))
    inside = sorted(_visible_files(folder, key, str(folder))) if inside is None else inside
    data = data_files(inside)
    if not data:
        raise ConfigError(
            f"{key}: {folder} is a folder without data files (.jsonl, .json, .csv, .tsv, .parquet, .arrow, also"
            f" compressed): found {listed_paths(inside) or 'nothing'}."
        )
    chosen, others = choose_split(data, split, f"{key}: {folder}")
    for name in chosen:
        _refuse_special(str(folder / name), key)
    found = Found([str(folder / name) for name in chosen])
    if others:
        found.notes.append(
            f"{key}: in {folder} the files of other splits are left out: {listed_paths(others)}; "
            f"set `split:` to select "
            f"others.{_to_score(folder, others)}"
        )
    if rest := [name for name in inside if name not in data]:
        found.notes.append(f"{key}: in {folder} files that are not data files are left out: {listed_paths(rest)}.")
    return found


def _held_out_files(folder: Path, key: str) -> Found:
    """Return the files of the test split of a folder, else of the validation split, else those that name no split."""
    inside = sorted(_visible_files(folder, key, str(folder)))
    for split in (*HELD_OUT, None):
        try:
            found = _files_of_folder(folder, key, split, inside)
        except ConfigError:
            if split is None:
                raise
            continue
        if split or not any(split_of(str(Path(path).relative_to(folder))) for path in found.paths):
            found.notes = [note for note in found.notes if "other splits" not in note]
            return found
    raise ConfigError(f"{key}: {folder} has only a train split: name the held-out files.")


def _to_score(folder: Path, names: list[str]) -> str:
    """Return the line that evaluates a model on held-out files, if there are some."""
    paths = [f'"{folder / name}"' for name in names if split_of(name) in HELD_OUT]
    return f" To evaluate on them, write evaluate.files: [{listed_paths(paths)}]." if paths else ""


def _visible_files(folder: Path, key: str, source: str) -> Iterator[str]:
    """Yield the names of the files below a folder that are not hidden, relative to it.

    Raises:
        ConfigError: if there are too many entries, as in `/`.
    """
    for place, files in walk(folder, key, source):
        inside = os.path.relpath(place, folder)
        for name in files:
            if not name.startswith("."):
                yield name if inside == "." else f"{inside}/{name}"


def _files_of_splits(folder: Path, key: str, split: str | None) -> Found:
    """Return the files of one split of a saved ``DatasetDict``."""
    known = _json(folder / "dataset_dict.json", key).get("splits")
    if not isinstance(known, list) or not known or not all(isinstance(name, str) for name in known):
        raise ConfigError(f"{key}: {folder}/dataset_dict.json lists no splits: save the data set again.")
    wanted = split or ("train" if "train" in known else known[0] if len(known) == 1 else "train")
    if wanted not in known:
        raise ConfigError(
            f"{key}: {folder} has no split {wanted!r}: write `split:` with one of those it has: {', '.join(known)}."
        )
    others = [name for name in known if name != wanted]
    notes = [f"{key}: reading the split {wanted!r} of the data set {folder}; left out: {listed_paths(others)}."]
    return Found(_files_of_saved(folder / wanted, key), notes if others else [])


def _files_of_saved(folder: Path, key: str) -> list[str]:
    """Return the files of a saved ``Dataset``, in its order."""
    state = _json(folder / "state.json", key)
    if state.get("_indices_data_files"):
        raise ConfigError(f"{key}: {folder} is a selection of rows: save it again with a current version of datasets.")
    entries = state.get("_data_files")
    listing = entries if isinstance(entries, list) else []
    names = [str(entry.get("filename", "")) for entry in listing if isinstance(entry, dict)]
    if not names or not all(name and name == Path(name).name for name in names):
        raise ConfigError(f"{key}: {folder}/state.json names no data files of its folder: save the data set again.")
    for name in names:
        if not os.path.lexists(folder / name):
            raise ConfigError(f"{key}: {folder} lacks {name}, which its state.json names: copy the whole folder.")
        _refuse_special(str(folder / name), key)
    return [str(folder / name) for name in names]


def _json(path: Path, key: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error}): copy or save the data set again.") from None
    return value if isinstance(value, dict) else {}
