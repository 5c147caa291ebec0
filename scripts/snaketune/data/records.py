"""Canonical records read back, and the normalised text by which two of them count as the same.

Normalised means Unicode NFKC with every run of white space as one space; upper and lower case stay apart. White
space includes the separators U+001E and U+001F, so they cannot occur in normalised text and a key says
unambiguously where a turn ends.
"""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from snaketune.common.errors import DataError

END_OF_ROLE = b"\x1f"
END_OF_TURN = b"\x1e"
ASCII_SPACES = bytes(ord(" ") if code < 128 and chr(code).isspace() else code for code in range(256))

Turn = tuple[str, str]


def read_turns(path: str | Path) -> Iterator[list[Turn]]:
    """Yield the turns, as (role, content), of each canonical record; plain text is one turn of role ``text``.

    Raises:
        DataError: if a line is no canonical record, which means that the file was damaged.
    """
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                turns = turns_of(orjson.loads(line))
            except (orjson.JSONDecodeError, KeyError, TypeError):
                raise DataError(
                    f"{path} line {number} is not a record (edited or damaged on disk): delete the file and run the"
                    " same command, its stage makes it again."
                ) from None
            yield turns


def turns_of(record: dict[str, Any]) -> list[Turn]:
    """Return the turns of a canonical record as (role, content)."""
    if "text" in record:
        return [("text", record["text"])]
    return [(message["role"], message["content"]) for message in record["messages"]]


def prompt_of(turns: list[Turn]) -> list[Turn]:
    """Return the turns before the last answer; of plain text, all of it."""
    last = max((index for index, (role, _) in enumerate(turns) if role == "assistant"), default=len(turns))
    return turns[:last]


def key_bytes(turns: list[Turn]) -> bytes:
    """Return the normalised text of ``turns`` with role and end of each, as UTF-8."""
    return b"".join([role.encode() + END_OF_ROLE + normalised(content) + END_OF_TURN for role, content in turns])


def normalised(text: str) -> bytes:
    """Return ``text`` in Unicode NFKC with every run of white space as one space and none at the ends, as UTF-8."""
    if not text.isascii():
        return " ".join(unicodedata.normalize("NFKC", text).split()).encode()
    # Splitting into words is the costly part, and most prose has nothing to collapse.
    spaced = text.encode().translate(ASCII_SPACES)
    return b" ".join(spaced.split()) if b"  " in spaced else spaced.strip()
