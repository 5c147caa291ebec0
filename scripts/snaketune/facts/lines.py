"""Fact files with a JSON object on each line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from snaketune.core.errors import DataError
from snaketune.facts.fact_files import missing

Json = dict[str, Any]


def read_lines(path: Path) -> Iterator[Json]:
    """Yield the JSON objects of the lines at ``path``, one at a time.

    Raises:
        DataError: naming the line that is not one.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - the block below closes it, and only opening may find no file
    except FileNotFoundError:
        raise missing(path) from None
    with file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parse_line(path, number, line)


def _parse_line(path: Path, number: int, line: bytes) -> Json:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number}, is not JSON ({error}): delete the file and run the same command."
        ) from None
    if not isinstance(value, dict):
        raise DataError(
            f"{path}, line {number}, does not hold a JSON object: delete the file and run the same command."
        )
    return value
