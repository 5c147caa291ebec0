"""The equality gate: on a sample of each run, ids are what encoding whole gives, and examples what inference gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snaketune.data.tokens.encoding import OFFSETS, SEGMENTS, Document, Encoder, Row

SAMPLE_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class Difference:
    """How many of the compared documents differ in ids, how many in masks alone, and the first that does."""

    compared: int
    ids: int
    masks: int
    first: int | None

    def facts(self) -> dict[str, Any]:
        """Return the comparison as facts for the manifest."""
        return {"compared": self.compared, "ids_differ": self.ids, "masks_differ": self.masks, "first": self.first}


def compare(documents: Sequence[Document], ours: Sequence[Row], theirs: Sequence[Row]) -> Difference:
    """Compare two encodings of the same documents, row by row."""
    pairs = list(zip(documents, ours, theirs, strict=True))
    ids = [d.record for d, (left, _), (right, _) in pairs if not np.array_equal(left, right)]
    masks = [d.record for d, left, right in pairs if d.record not in ids and not np.array_equal(left[1], right[1])]
    return Difference(len(pairs), len(ids), len(masks), min([*ids, *masks], default=None))


def choose_method(documents: Sequence[Document], encoder: Encoder) -> tuple[str, dict[str, Any]]:
    """Return ``segments`` when they give the tokens of the whole text on every document, else ``offsets``.

    Returns:
        The method and the facts of the comparison.
    """
    split = [document for document in documents if encoder.is_split(document)]
    difference = compare(split, encoder.encode(split), encoder.encode_whole(split))
    whole = sum(not document.plain for document in documents) - len(split)
    method = OFFSETS if difference.first is not None else SEGMENTS
    return method, {**difference.facts(), "doubtful_borders": whole}
