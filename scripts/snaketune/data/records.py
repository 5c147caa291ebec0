"""Canonical records read back, and the normalised text by which two of them count as the same.

Normalised means Unicode NFKC with every run of white space as one space; upper and lower case stay apart. White
space includes the separators U+001E and U+001F, so they cannot occur in normalised text and a key says
unambiguously where a turn ends.
"""

import io
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import orjson

from snaketune.common.errors import DataError

END_OF_ROLE = b"\x1f"
END_OF_TURN = b"\x1e"
ASCII_SPACES = bytes(ord(" ") if code < 128 and chr(code).isspace() else code for code in range(256))

RANGE_BYTES = 16 << 20

Turn = tuple[str, str]
Range = tuple[int, int]


def read_turns(
    path: str | Path, span: Range | None = None, wanted: Iterable[bool] | None = None
) -> Iterator[list[Turn]]:
    """Yield the turns, as (role, content), of each canonical record; plain text is one turn of role ``text``.

    Args:
        path: canonical records.
        span: the byte range of whole lines to read; all if not given.
        wanted: for each line of the range whether to read it; all if not given.

    Raises:
        DataError: if a line is no canonical record, which means that the file was damaged.
    """
    for number, (line, take) in enumerate(zip(lines_in(path, span), wanted or repeat(True))):  # noqa: B905 - endless
        if not take:
            continue
        try:
            turns = turns_of(orjson.loads(line))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            number += 1 + sum(1 for _ in lines_in(path, (0, span[0] if span else 0)))
            raise damaged(path, number) from None
        yield turns


def damaged(path: str | Path, number: int) -> DataError:
    """Return the error of a line that is no canonical record; ``number`` counts from 1."""
    return DataError(
        f"{path} line {number} is not a record (edited or damaged on disk): delete the file and run the same command,"
        " its stage makes it again."
    )


def line_ranges(path: str | Path, size: int = RANGE_BYTES) -> list[Range]:
    """Return one or more byte ranges (start, stop) of whole lines, about ``size`` bytes each, that cover the file."""
    end = Path(path).stat().st_size
    cuts = [0]
    with open(path, "rb") as file:
        while (target := cuts[-1] + size) < end:
            file.seek(target - 1)
            file.readline()
            cuts.append(file.tell())
    return list(pairwise([*cuts, end]))


def lines_in(path: str | Path, span: Range | None = None) -> Iterator[bytes]:
    """Yield the lines of a byte range, or of the whole file."""
    with open(path, "rb") as file:
        if span is None:
            yield from file
            return
        file.seek(span[0])
        yield from io.BytesIO(file.read(span[1] - span[0]))


def count_lines(path: Path, span: Range) -> int:
    """Return the number of lines in a range."""
    return sum(1 for _ in lines_in(path, span))


def turns_of(record: dict[str, Any]) -> list[Turn]:
    """Return the turns of a canonical record as (role, content); what a tool is called with counts as content.

    Raises:
        DataError: if the record is a preference, which no training method can use yet.
    """
    if "text" in record:
        return [("text", record["text"])]
    if "chosen" in record:
        raise DataError(
            "train.method: sft cannot learn from preferences (chosen and rejected answers): to train on the chosen"
            " answers alone set data.format to prompt_completion and data.columns to {completion: chosen}, or for whole"
            " conversations to messages and {messages: chosen}."
        )
    turns = record["messages"]
    return [(turn["role"], turn["content"] if len(turn) == 2 else _said(turn)) for turn in turns]


def _said(message: dict[str, Any]) -> str:
    """Return the content of a turn with the functions that it calls; the ids of calls are arbitrary."""
    content = message["content"] or ""
    if "tool_calls" not in message:
        return content
    calls = [call.get("function", call) for call in message["tool_calls"]]
    return content + orjson.dumps(calls, option=orjson.OPT_SORT_KEYS).decode()


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
