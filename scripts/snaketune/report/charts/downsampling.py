"""Downsampling of curves with many points that keeps every spike visible."""

from collections.abc import Callable, Sequence

Point = tuple[int, float]
MAXIMUM_POINTS = 1000


def thin(points: Sequence[Point], maximum: int = MAXIMUM_POINTS) -> list[Point]:
    """Return at most ``maximum`` of ``points``: the first, the last, and the lowest and highest of each bucket.

    Args:
        points: (step, value) pairs in the order of the steps.
        maximum: at least 4.
    """
    if len(points) <= maximum:
        return list(points)
    # Averages or every n-th point would drop a spike of one step. Two points per bucket bound the number.
    inner = points[1:-1]
    buckets = (maximum - 2) // 2
    kept = [points[0]]
    for number in range(buckets):
        bucket = inner[number * len(inner) // buckets : (number + 1) * len(inner) // buckets]
        extremes = {_index_of(bucket, min), _index_of(bucket, max)}
        kept += [bucket[index] for index in sorted(extremes)]
    return [*kept, points[-1]]


def _index_of(bucket: Sequence[Point], extreme: Callable[..., int]) -> int:
    return extreme(range(len(bucket)), key=lambda index: bucket[index][1])


def every_so_often(points: Sequence[Point], rows: int) -> list[Point]:
    """Return at most ``rows`` (at least 2) of ``points``, evenly spaced, with the first and the last."""
    if len(points) <= rows:
        return list(points)
    return [points[round(number * (len(points) - 1) / (rows - 1))] for number in range(rows)]
