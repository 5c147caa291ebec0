"""The path that was probably meant by one that does not exist: Windows paths, quotes, case, composed letters, typos."""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

# What editors and chat programs put around a path, and what is not seen at its end.
AROUND = "'\"`\u2018\u2019\u201c\u201d \t\u00a0\u200b\ufeff"
WINDOWS = re.compile(r"([A-Za-z]):[\\/](.*)", re.DOTALL)
# More entries of a folder are not compared.
MOST_COMPARED = 10_000


def nearest_path(given: str) -> str | None:
    """Return an existing path that is spelled nearly like ``given``; a Windows path as WSL names it.

    Args:
        given: a path that does not exist.
    """
    if windows := WINDOWS.fullmatch(given.strip(AROUND)):
        return f"/mnt/{windows[1].lower()}/{windows[2].replace(chr(92), '/')}, which is what WSL calls it"
    for text in _other_spellings(given):
        if os.path.lexists(text):
            return text
        if found := _by_names(Path(text)):
            return found
    return None


def _other_spellings(given: str) -> Iterator[str]:
    stripped = given.strip(AROUND)
    texts = (given, stripped, stripped.replace("\\", "/"))
    yield from (text for text in dict.fromkeys(texts) if text and "\0" not in text)


def _by_names(path: Path) -> str | None:
    """Return the path whose folders and file have the same names but for case, composition or a letter or two."""
    found = Path(path.anchor)
    for number, part in enumerate(path.parts[1 if path.anchor else 0 :], 1):
        is_last = number == len(path.parts) - bool(path.anchor)
        if os.path.lexists(found / part):
            found /= part
        elif name := _nearest_name(found, part, is_last):
            found /= name
        else:
            return None
    return str(found)


def _nearest_name(folder: Path, name: str, is_last: bool) -> str | None:
    try:
        names = os.listdir(folder)[:MOST_COMPARED]  # noqa: PTH208 - names, not paths
    except OSError:
        return None
    same = {_plain(one): one for one in sorted(names)}
    if found := same.get(_plain(name)):
        return found
    near = difflib.get_close_matches(_plain(name), same, 1, 0.85) if is_last else []
    return same[near[0]] if near else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()
