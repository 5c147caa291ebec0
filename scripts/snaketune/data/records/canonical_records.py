"""Reading of canonical records, and the keys by which two records, or two prompts, are compared.

Records are equal if every character of every text is. For the split, prompts are equal if their normalised texts are,
which errs on the side of keeping them together: Unicode NFKC, with every run of white space as one space; case counts.
White space includes the separators U+001E and U+001F: they cannot occur in normalised text, so they mark the ends of
turns in a key unambiguously.
"""

import io
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any, TypeVar

import orjson

from snaketune.core.errors import DataError

END_OF_ROLE = b"\x1f"
END_OF_TURN = b"\x1e"
# Prefix of the role in turns of a rejected answer.
REJECTED_PREFIX = "rejected "
ASCII_SPACES = bytes(ord(" ") if code < 128 and chr(code).isspace() else code for code in range(256))

RANGE_BYTES = 16 << 20

RoleAndText = tuple[str, str]
Range = tuple[int, int]
Part = TypeVar("Part")


def read_turns(
    path: str | Path, span: Range | None = None, wanted: Iterable[bool] | None = None
) -> Iterator[list[RoleAndText]]:
    """Yield the turns, as (role, content), of each canonical record; plain text is one turn of role ``text``.

    Args:
        path: canonical records.
        span: byte range of whole lines to read; by default the whole file.
        wanted: whether to read each line of the range; by default all.

    Raises:
        DataError: if a line is not a canonical record, which means that the file was damaged.
    """
    return _read(turns_of, path, span, wanted)


def read_exact_bytes(path: str | Path, span: Range | None = None) -> Iterator[bytes]:
    """Yield the :func:`exact_bytes` of each canonical record of a range.

    Raises:
        DataError: if a line is not a canonical record, which means that the file was damaged.
    """
    return _read(exact_bytes, path, span)


def _read(
    part: Callable[[dict[str, Any]], Part],
    path: str | Path,
    span: Range | None,
    wanted: Iterable[bool] | None = None,
) -> Iterator[Part]:
    for number, (line, take) in enumerate(zip(lines_in(path, span), wanted or repeat(True))):  # noqa: B905 - endless
        if not take:
            continue
        try:
            found = part(orjson.loads(line))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            number += 1 + sum(1 for _ in lines_in(path, (0, span[0] if span else 0)))
            raise damaged(path, number) from None
        yield found


def damaged(path: str | Path, number: int) -> DataError:
    """Return the error of a line that is not a canonical record; ``number`` counts from 1."""
    return DataError(
        f"{path} line {number} is not a record (edited or damaged on disk): delete the file and run the same command,"
        " its stage writes it again."
    )


def line_ranges(path: str | Path, size: int = RANGE_BYTES) -> list[Range]:
    """Return one or more byte ranges (start, stop) of whole lines, about ``size`` bytes each, that cover the file."""
    end = Path(path).stat().st_size
    cuts = [0]
    with open(path, "rb") as file:
        while (target := cuts[-1] + size) < end:
            # From one byte before the target, so that a line that ends exactly there is not joined with the next one.
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


def turns_of(record: dict[str, Any]) -> list[RoleAndText]:
    """Return the turns of a canonical record as (role, content), with the arguments of tool calls as content.

    In a pair the rejected answer comes last, so that pairs that differ only in it are different records.
    """
    if "text" in record:
        return [("text", record["text"])]
    turns = [(turn["role"], turn["content"] if len(turn) == 2 else _said(turn)) for turn in conversation_of(record)]
    if "rejected" in record:
        turns += [(f"{REJECTED_PREFIX}{turn['role']}", _said(turn)) for turn in record["rejected"]]
    return turns


def conversation_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a canonical record; for a pair, the prompt with the chosen answer."""
    found: list[dict[str, Any]] = record["messages"] + record["chosen"] if "chosen" in record else record["messages"]
    return found


def _said(message: dict[str, Any]) -> str:
    """Return the content of a turn with its reasoning and function calls, without the arbitrary ids of calls."""
    content: str = message.get("reasoning_content", "") + (message["content"] or "")
    if "tool_calls" not in message:
        return content
    calls = [call.get("function", call) for call in message["tool_calls"]]
    return content + orjson.dumps(calls, option=orjson.OPT_SORT_KEYS).decode()


def prompt_of(turns: list[RoleAndText]) -> list[RoleAndText]:
    """Return the turns before the last answer; for plain text, the whole text."""
    first = next((index for index, (role, _) in enumerate(turns) if role.startswith(REJECTED_PREFIX)), 0)
    if first and turns[first - 1][0] != "assistant":  # a rejected answer without a chosen one
        return turns[:first]
    last = max((index for index, (role, _) in enumerate(turns) if role == "assistant"), default=len(turns))
    return turns[:last]


def key_bytes(turns: list[RoleAndText]) -> bytes:
    """Return the normalised text of ``turns`` with the role and end of each, as UTF-8."""
    return b"".join([role.encode() + END_OF_ROLE + normalised(content) + END_OF_TURN for role, content in turns])


def exact_bytes(record: dict[str, Any]) -> bytes:
    """Return bytes that are equal for two canonical records exactly if the records are, apart from their place.

    Everything counts: every character of the texts, roles, weights, tools. Ids of tool calls are arbitrary, so only the
    assignment of results to calls counts.

    Raises:
        KeyError, TypeError: if it is not a canonical record.
    """
    del record["source"], record["line"]
    if "text" not in record:
        numbers: dict[str, int] = {}
        for turn in record["messages"] + record.get("chosen", []) + record.get("rejected", []):
            _number_calls(turn, numbers)
    return orjson.dumps(record, option=orjson.OPT_SORT_KEYS)


def _number_calls(turn: dict[str, Any], numbers: dict[str, int]) -> None:
    """Replace the ids of calls by numbers in order of appearance."""
    for holder in turn.get("tool_calls", ()):
        if "id" in holder:
            holder["id"] = numbers.setdefault(holder["id"], len(numbers))
    if "tool_call_id" in turn:
        turn["tool_call_id"] = numbers.setdefault(turn["tool_call_id"], len(numbers))


def normalised(text: str) -> bytes:
    """Return ``text`` in Unicode NFKC with every run of white space as one space, trimmed, as UTF-8."""
    if not text.isascii():
        return " ".join(unicodedata.normalize("NFKC", text).split()).encode()
    # Splitting into words is the slow part, and most prose has nothing to collapse.
    spaced = text.encode().translate(ASCII_SPACES)
    return b" ".join(spaced.split()) if b"  " in spaced else spaced.strip()
