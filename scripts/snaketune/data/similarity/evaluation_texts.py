"""Texts of evaluation files, for decontamination: every string in the records, whatever the container or the fields."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from snaketune.core.errors import DataError
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.sources.blocks import SourceBlocks
from snaketune.data.sources.contents import opened

LINES_OF_TEXT = ".txt"


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """A text of an evaluation, with its file and line."""

    path: str
    line: int
    text: str


def read_evaluation_texts(entries: Sequence[dict[str, str]]) -> Iterator[EvaluationText]:
    """Yield the texts of evaluation files: every string in their records, or every line of .txt files.

    Args:
        entries: ``{path, digest}`` as recorded when the workflow started.

    Raises:
        DataError: if a file changed since, cannot be read, or holds no text.
    """
    for entry in entries:
        path, found = entry["path"], False
        is_text = LINES_OF_TEXT in path.rsplit("/", 1)[-1].lower()
        try:
            for text in _lines(path, entry["digest"]) if is_text else _of_records(path, entry["digest"]):
                found = True
                yield text
        except DataError as error:
            words = str(error).replace("data.sources", "split.decontaminate")
            raise DataError(f"split.decontaminate: {words.removeprefix('split.decontaminate: ')}") from None
        if not found:
            raise DataError(f"split.decontaminate: {path} holds no text: remove it from the list or fill it.")


def _lines(path: str, digest: str) -> Iterator[EvaluationText]:
    number = 0
    with opened(path, path, digest) as content:
        try:
            for number, line in enumerate(io.BufferedReader(content.stream), 1):
                if text := line.decode("utf-8-sig", "replace").strip():
                    yield EvaluationText(path, number, text)
        except EOFError as error:
            raise DataError(
                f"{path} is damaged or truncated after line {number} ({error}): download or compress it again."
            ) from None
        content.finish(digest)


def _of_records(path: str, digest: str) -> Iterator[EvaluationText]:
    for block in SourceBlocks(0, path, path, digest):
        for number, item in enumerate(block.items(), block.line):
            for text in _strings(_value_of(item, f"{path} {block.unit} {number}")):
                yield EvaluationText(path, number, text)


def _value_of(item: Any, place: str) -> Any:
    """Return the value of a record, or None for a blank line."""
    if isinstance(item, RefusedLine):
        raise DataError(f"{place}: {item.detail}: correct it.")
    if not isinstance(item, bytes):
        return item
    try:
        return orjson.loads(item) if item.strip() else None
    except orjson.JSONDecodeError as error:
        raise DataError(f"{place} is not JSON ({error.msg}): correct it, or name the file .txt.") from None


def _strings(value: Any) -> Iterator[str]:
    # An explicit stack: deep nesting must not end in a RecursionError.
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            waiting.extend(reversed(list(value.values()) if isinstance(value, dict) else value))
