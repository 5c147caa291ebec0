"""What a source is whose first lines are no records, with the command that makes records of it."""

import orjson

from snaketune.core.errors import DataError
from snaketune.data.sources.blocks import Block

# Control characters other than white space are in no text.
NO_TEXT = bytes(set(range(32)) - set(b"\t\n\r\f\v\b\x1b"))
TO_UTF8 = "for example `iconv -f CP1252 -t UTF-8 FILE > NEW`"


def no_objects(path: str, blocks: list[Block]) -> DataError:
    """Return the error of a source without an object among the lines of its first blocks.

    Args:
        path: what the user calls it.
        blocks: its beginning.
    """
    lines = [item for block in blocks for item in block.items() if type(item) is bytes and item.strip()]
    if any(line.translate(None, NO_TEXT) != line for line in lines):
        return DataError(f"{path} is no text and of no known kind: give another file in data.sources.")
    values = [_parsed(line) for line in lines]
    if lines and all(type(value) is list and any(type(item) is dict for item in value) for value in values):
        return DataError(
            f"{path} has lists of records on its lines: write each record on a line, `jq -c '.[]' FILE > lines.jsonl`."
        )
    if any(not _is_utf8(line) for line in lines):
        return DataError(
            f"{path} is no UTF-8 text: convert it from its encoding, {TO_UTF8} (Japanese systems often have SHIFT_JIS,"
            " Chinese ones GB18030)."
        )
    if any(value is not ... for value in values):
        return DataError(
            f"{path} has no known shape, its first lines hold JSON and no object: give another file in data.sources."
        )
    return DataError(
        f"{path} is plain text and no records: to train on all of it as one text, write it as a record,"
        " `jq -Rsc '{text: .}' FILE > text.jsonl`; to train on each line as a text of its own, leave out the s."
    )


def _parsed(line: bytes) -> object:
    """Return the value of a line, an ellipsis where it is no JSON."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return ...


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
