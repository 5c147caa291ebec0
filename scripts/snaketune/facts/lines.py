"""Fact files with a JSON object on each line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import orjson

from snaketune.core.canonical import Json
from snaketune.core.errors import DataError
from snaketune.facts.fact_files import missing_file
from snaketune.facts.shapes import ShapeError, shaped


class Line(TypedDict):
    """A line of any kind."""


class RecordPlace(TypedDict):
    """A line of a source, by the source's number."""

    source: int
    line: int


class DuplicateLine(TypedDict):
    """A removed record and the one that stayed."""

    removed: RecordPlace
    kept: RecordPlace
    kind: str
    similarity: float


class LeftOutLine(TypedDict, total=False):
    """A record that tokenising left out."""

    reason: str
    source: int
    line: int


class LeakPlaces(TypedDict, total=False):
    """Origin of a record, as far as it is known."""

    source: int | None
    line: int | None


class LeakLine(TypedDict, total=False):
    """A record that was kept from training, and what it is like."""

    reason: str
    removed: LeakPlaces
    eval: LeakPlaces
    similarity: float | None
    share: float | None


class DocumentLine(TypedDict):
    """Results of a run's models on a held-out document; losses are sums in nats."""

    record: int
    tokens: int
    tuned_nll: NotRequired[float | None]


class GenerationLine(TypedDict, total=False):
    """An answer; ``scores`` by model and measure."""

    scores: dict[str, dict[str, float | bool | None] | None]


class MetricsLine(TypedDict):
    """A logged step; a loss that is not finite is None."""

    step: int
    loss: NotRequired[float | None]
    eval_loss: NotRequired[float | None]
    learning_rate: NotRequired[float | None]
    grad_norm: NotRequired[float | None]
    reward_margin: NotRequired[float | None]
    reward_accuracy: NotRequired[float | None]
    tokens: NotRequired[int | None]
    tokens_per_second: NotRequired[float | None]
    mfu: NotRequired[float | None]
    memory_gb: NotRequired[float | None]
    gpu_utilization: NotRequired[float | None]
    data_seconds: NotRequired[float | None]
    compute_seconds: NotRequired[float | None]
    evaluation_seconds: NotRequired[float | None]
    checkpoint_seconds: NotRequired[float | None]


def read_lines(path: Path, kind: type[Any] = Line) -> Iterator[Json]:
    """Yield the JSON objects of the lines at ``path``, one at a time.

    Args:
        path: the file.
        kind: the shape of a line; what it does not declare is left as it is.

    Raises:
        DataError: naming the line that is not one.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - the block below closes it, and only opening may find no file
    except FileNotFoundError:
        raise missing_file(path) from None
    with file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield parse_fact_line(path, number, line, kind)


def parse_fact_line(path: Path, number: int, line: bytes, kind: type[Any]) -> Json:
    """Return the JSON object of a line; ``path`` and ``number`` are for the error.

    Raises:
        DataError: if the line is not one, or has another shape.
    """
    place, cure = f"{path}, line {number}", "delete the file and run the same command."
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{place}, is not JSON ({error}): {cure}") from None
    if not isinstance(value, dict):
        raise DataError(f"{place}, does not hold a JSON object: {cure}")
    try:
        return cast(Json, shaped(value, kind))
    except ShapeError as error:
        raise DataError(f"{place}: {error}: {cure}") from None
