"""Documents of a batch that begin with the same tokens keep them once: a system prompt, for example.

Under causal attention, with positions that restart in each document, the states of a common prefix are the same in all
its documents. So the documents form a prefix tree. Its nodes, the segments, are laid out in preorder, so that the
tokens that continue a prefix directly follow it:

    documents  A B C d e | A B C f | A B g h      segments  [A B] [C] [d e] [f] [g h]

Attention is causal within a segment, and the tokens of all segments below it see it whole. Gradients of a prefix are
the sums over its documents, which is what the backward pass of that attention gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

# A prefix is shared if it saves at least this many tokens: a segment costs two more attention calls per layer.
LEAST_SAVED = 16


@dataclass(slots=True)
class PrefixTree:
    """The kept tokens of a batch, as segments in preorder.

    Attributes:
        tokens: position in the batch of the first token of each segment, and behind its last one.
        seen_until: kept tokens up to the end of the last segment that sees this one.
        size: number of kept tokens.
    """

    tokens: list[tuple[int, int]] = field(default_factory=list)
    seen_until: list[int] = field(default_factory=list)
    size: int = 0

    def add(self, start: int, end: int) -> None:
        """Append the segment of the tokens ``start`` to ``end`` - 1, which only itself sees so far."""
        if end > start:
            self.tokens.append((start, end))
            self.size += end - start
            self.seen_until.append(self.size)

    def kept(self) -> np.ndarray:
        """Return the positions in the batch of the kept tokens, in their new order, int64."""
        return np.concatenate([np.arange(start, end) for start, end in self.tokens])

    def boundaries(self) -> tuple[np.ndarray, np.ndarray]:
        """Return where segments begin and where the queries that see them end, int32, shape [segments + 1].

        Both begin with 0 and end with the number of kept tokens; they are equal if nothing is shared.
        """
        lengths = [end - start for start, end in self.tokens]
        return np.cumsum([0, *lengths], dtype=np.int32), np.array([0, *self.seen_until], np.int32)


def prefix_tree(ids: np.ndarray, positions: np.ndarray, trained: np.ndarray) -> PrefixTree | None:
    """Return the tree of the documents in a row, or None if sharing saves too little.

    A document shares at most the tokens before its first one with loss, less one: that one's loss is taken from the
    state before it, which therefore belongs to the document alone.

    Args:
        ids: of the tokens, int64, shape [tokens].
        positions: of the tokens in their documents, which start at 0; shape [tokens].
        trained: which tokens carry loss; shape [tokens].
    """
    starts = np.flatnonzero(positions == 0).tolist()
    documents = list(pairwise([*starts, len(ids)]))
    sharable = [ids[start : start + _most(trained[start:end])] for start, end in documents]
    # Sorted, documents with a common prefix are neighbours.
    order = sorted(range(len(documents)), key=lambda document: sharable[document].tolist())
    common = [_common(sharable[one], sharable[other]) for one, other in pairwise(order)]
    tree = PrefixTree()
    _grow(tree, [documents[document] for document in order], common, 0)
    return tree if tree.size < len(ids) else None


def _most(trained: np.ndarray) -> int:
    """Return how many of a document's first tokens may be shared."""
    places = np.flatnonzero(trained)
    return max(0, int(places[0]) - 1) if len(places) else len(trained)


def _common(one: np.ndarray, other: np.ndarray) -> int:
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


def _grow(tree: PrefixTree, documents: Sequence[tuple[int, int]], common: Sequence[int], depth: int) -> None:
    """Append what follows the first ``depth`` tokens, which are kept already, of documents that have those in common.

    Args:
        tree: grows.
        documents: sorted, first token of each and the end.
        common: tokens that each has in common with the next one.
        depth: each level of the recursion is deeper, and so its documents are longer.
    """
    start, end = documents[0]
    if len(documents) == 1:
        tree.add(start + depth, end)
        return
    least = min(common)
    shared = least if (least - depth) * (len(documents) - 1) >= LEAST_SAVED else depth
    node = len(tree.tokens)
    tree.add(start + depth, start + shared)
    edges = [0, *(place + 1 for place, length in enumerate(common) if length == least), len(documents)]
    for first, last in pairwise(edges):
        _grow(tree, documents[first:last], common[first : last - 1], shared)
    if shared > depth:
        tree.seen_until[node] = tree.size
