"""Packing documents into rows of equal length, best fit first, and cutting what is too long."""

import numpy as np


def pack(lengths: np.ndarray, row_length: int) -> list[np.ndarray]:
    """Assign documents to rows by best-fit decreasing.

    Open rows are kept by free space; a Python integer whose bit ``s`` says that some row has ``s`` free tokens
    finds the tightest fit in one operation, so 500,000 documents take about a second.

    Args:
        lengths: tokens of each document, shape [documents]; none may exceed ``row_length``.

    Returns:
        For each row the indices of its documents, in the order they are laid out (by index).

    Raises:
        ValueError: if a document is longer than a row or empty.
    """
    if len(lengths) and (int(lengths.max()) > row_length or int(lengths.min()) < 1):
        raise ValueError(f"documents must have 1 to {row_length} tokens")
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(row_length + 1)]
    spaces = 0
    for document, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[space].pop()
            if not open_rows[space]:
                spaces &= ~(1 << space)
        else:
            space, row = row_length, len(rows)
            rows.append([])
        rows[row].append(document)
        if left := space - length:
            open_rows[left].append(row)
            spaces |= 1 << left
    return [np.sort(np.asarray(row, np.int64)) for row in rows]


def one_per_row(lengths: np.ndarray) -> list[np.ndarray]:
    """Return one row per document, in order: what ``packing: false`` means."""
    return [np.asarray([index], np.int64) for index in range(len(lengths))]


def window(mask: np.ndarray, length: int) -> slice:
    """Return the part of a document of more than ``length`` tokens that is kept.

    The end of the prompt and the whole answer are kept when the answer fits beside at least a quarter of the
    row; else the quarter before the answer and the answer's beginning.

    Args:
        mask: loss mask of the document, shape [tokens], with at least one 1.
    """
    trained = np.flatnonzero(mask)
    first, last = int(trained[0]), int(trained[-1])
    latest = max(0, first - length // 4)
    start = min(max(0, last + 1 - length), latest)
    start = min(start, len(mask) - length)
    return slice(start, start + length)
