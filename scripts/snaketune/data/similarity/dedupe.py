"""Deduplication: the first record of each group of exact duplicates or near duplicates is kept.

Exact duplicates agree in every field and byte: white space and Unicode are not normalised, and case only on request.

Removal has two steps. The plan is a table of the removed records and their representatives, `removed.arrow`; it is
then applied to the raw lines. Any other engine may write that table instead. Memory is about 60 bytes per record,
independent of the records' length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from snaketune.data.parallel import in_processes
from snaketune.data.records.canonical_records import Range, count_lines, line_ranges, read_exact_bytes
from snaketune.data.shards import read_parts
from snaketune.data.similarity.minhash import SimilarityCriteria, sketch_ranges, sketches_in
from snaketune.data.similarity.near_dedupe import Store, near_duplicates
from snaketune.data.similarity.sorted_keys import first_occurrences


@dataclass(frozen=True, slots=True)
class DedupePolicy:
    """The ``dedupe`` section of the configuration."""

    exact: bool = True
    ignore_case: bool = False
    near: bool = True
    threshold: float = 0.8
    num_perm: int = 125
    ngram: int = 5

    @property
    def criteria(self) -> SimilarityCriteria:
        """The criteria for near duplicates."""
        return SimilarityCriteria(self.threshold, self.num_perm, self.ngram)


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """The representative of each record: the record itself if it is kept.

    Attributes:
        representative: int64 [records], index of the record that is kept in its place.
        similarity: float64 [records], similarity to the representative; 1 for exact duplicates.
        near: bool [records], whether the record is a near duplicate rather than an exact one.
        compared: number of pairs whose shingles were compared exactly.
    """

    representative: np.ndarray
    similarity: np.ndarray
    near: np.ndarray
    compared: int = 0

    @property
    def removed(self) -> np.ndarray:
        """The removed records, ascending."""
        return np.flatnonzero(self.representative != np.arange(len(self.representative)))

    def facts(self) -> dict[str, int]:
        """Return the counts for the manifest."""
        removed, near = len(self.removed), int(np.count_nonzero(self.near))
        sizes = np.bincount(self.representative[self.removed]) + 1 if removed else np.zeros(1, np.int64)
        return {
            "records_in": len(self.representative),
            "kept": len(self.representative) - removed,
            "removed": removed,
            "removed_exact": removed - near,
            "removed_near": near,
            "clusters": int(np.count_nonzero(sizes > 1)),
            "largest_cluster": int(sizes.max()),
            "compared_pairs": self.compared,
        }


@dataclass(frozen=True, slots=True)
class DedupeParts:
    """Results of the shards: files of keys, and folders of sketches if near duplicates are wanted."""

    keys: Sequence[Path] = ()
    sketches: Sequence[Path] = ()


NO_PARTS = DedupeParts()
KEY_BYTES = 16


def plan_removal(
    path: Path, policy: DedupePolicy, folder: Path, threads: int = 1, parts: DedupeParts = NO_PARTS
) -> RemovalPlan:
    """Return the plan for a file of canonical records.

    Args:
        path: the records.
        policy: what counts as a duplicate.
        folder: an empty folder for temporary files.
        threads: processes to use; the plan depends neither on their number nor on ``parts``.
        parts: results of the shards.
    """
    ranges = line_ranges(path)
    counts, representative = (
        plan_from_keys(parts.keys, policy) if parts.keys else plan_exact(path, ranges, policy, threads)
    )
    similarity, near, compared = np.ones(len(representative)), np.zeros(len(representative), bool), 0
    if policy.near:
        criteria = policy.criteria
        if parts.sketches:
            store = Store(folder, sketches_in(parts.sketches), criteria, keep=True)
        else:
            sketches = sketch_ranges(path, ranges, absent(counts, representative), criteria, folder, threads)
            store = Store(folder, sketches, criteria)
        found = near_duplicates(store, len(representative))
        # Only the first of equal records was sketched. The others follow it, so that none refers to a removed record.
        # The facts count a record as exact if its representative stays, and as near if that was removed in turn.
        near = found.representative[representative] != representative
        similarity, representative, compared = (
            found.similarity[representative],
            found.representative[representative],
            found.verified,
        )
    return RemovalPlan(representative, similarity, near, compared)


def plan_exact(path: Path, ranges: Sequence[Range], policy: DedupePolicy, threads: int) -> tuple[list[int], np.ndarray]:
    """Return the number of records in each range, and for each record the index of the first one equal to it."""
    if not policy.exact:
        counts = list(in_processes(count_lines, [(path, span) for span in ranges], threads))
        return counts, np.arange(sum(counts))
    parts = list(in_processes(keys_of_range, [(path, span, policy.ignore_case) for span in ranges], threads))
    return [len(part) // KEY_BYTES for part in parts], _first(parts)


def plan_from_keys(parts: Sequence[Path], policy: DedupePolicy) -> tuple[list[int], np.ndarray]:
    """Return the same as :func:`plan_exact` from the keys that shards have computed, 16 bytes per record."""
    found = list(read_parts(parts))
    counts = [count for count, _ in found]
    if not policy.exact:
        return counts, np.arange(sum(counts))
    return counts, _first([keys for _, keys in found])


def _first(keys: Sequence[bytes]) -> np.ndarray:
    # At 128 bits a chance collision among a billion records has a probability of about 1e-21 (birthday bound), so equal
    # keys are taken for equal records without comparing the text.
    return first_occurrences(np.frombuffer(b"".join(keys), "<u8").reshape(-1, 2))


def absent(counts: Sequence[int], representative: np.ndarray) -> list[np.ndarray]:
    """Return for each range which of its records are already removed, bool."""
    return np.split(representative != np.arange(len(representative)), np.cumsum(counts)[:-1])


def keys_of_range(path: Path, span: Range, ignore_case: bool) -> bytes:
    """Return the XXH3-128 digest of each record in a range, case-folded first if ``ignore_case``, 16 bytes each."""
    found = read_exact_bytes(path, span)
    if ignore_case:
        found = (record.decode().casefold().encode() for record in found)
    return b"".join([xxhash.xxh3_128_digest(record) for record in found])
