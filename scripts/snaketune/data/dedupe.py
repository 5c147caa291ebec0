"""Duplicates: of records with the same normalised text, and of records that are nearly alike, the first stays.

Removal is planned first: a table of what goes and what stands for it, `removed.arrow`. Then it is carried out on the
raw lines. Any other way of finding duplicates may write that table instead. Memory is some 60 bytes per record,
whatever the records hold.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from snaketune.data.keys import LOW, first_occurrences, shared_keys
from snaketune.data.minhash import Likeness
from snaketune.data.near_dedupe import Store, near_duplicates, sketch_ranges, sketches_in
from snaketune.data.parallel import in_processes
from snaketune.data.records import Range, Turn, count_lines, key_bytes, line_ranges, read_turns, rough_bytes
from snaketune.data.shards import read_parts

# Comparing fewer takes less time than starting a process.
RECORDS_PER_PROCESS = 50_000


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
    def likeness(self) -> Likeness:
        """When two records are near-duplicates."""
        return Likeness(self.threshold, self.num_perm, self.ngram)


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """For each record the index of the record that stands for it: its own where it stays.

    Attributes:
        stands: int64, shape [records].
        similarity: float64, shape [records]; 1 where the texts are the same.
        near: bool, shape [records]: the two are not the same text.
        compared: pairs of records whose shingles were compared one by one.
    """

    stands: np.ndarray
    similarity: np.ndarray
    near: np.ndarray
    compared: int = 0

    @property
    def removed(self) -> np.ndarray:
        """The records that go, ascending."""
        return np.flatnonzero(self.stands != np.arange(len(self.stands)))

    def facts(self) -> dict[str, int]:
        """Return the counts for the manifest."""
        removed, near = len(self.removed), int(np.count_nonzero(self.near))
        sizes = np.bincount(self.stands[self.removed]) + 1 if removed else np.zeros(1, np.int64)
        return {
            "records_in": len(self.stands),
            "kept": len(self.stands) - removed,
            "removed": removed,
            "removed_exact": removed - near,
            "removed_near": near,
            "clusters": int(np.count_nonzero(sizes > 1)),
            "largest_cluster": int(sizes.max()),
            "compared_pairs": self.compared,
        }


@dataclass(frozen=True, slots=True)
class DedupeParts:
    """What shards have worked out already: parts with keys, and folders with sketches where those are wanted."""

    keys: Sequence[Path] = ()
    sketches: Sequence[Path] = ()


NO_PARTS = DedupeParts()


def plan_removal(
    path: Path, policy: DedupePolicy, folder: Path, threads: int = 1, parts: DedupeParts = NO_PARTS
) -> RemovalPlan:
    """Return the plan for a file of canonical records.

    Args:
        path: the records.
        policy: what counts as a duplicate.
        folder: an empty folder for temporary files.
        threads: processes to use; neither they nor ``parts`` change the plan.
        parts: what shards have worked out.
    """
    ranges = line_ranges(path)
    counts, stands = plan_from_keys(parts.keys, policy) if parts.keys else plan_exact(path, ranges, policy, threads)
    similarity, near, compared = np.ones(len(stands)), np.zeros(len(stands), bool), 0
    if policy.near:
        likeness = policy.likeness
        if parts.sketches:
            store = Store(folder, sketches_in(parts.sketches), likeness, keep=True)
        else:
            sketches = sketch_ranges(path, ranges, absent(counts, stands), likeness, folder, threads)
            store = Store(folder, sketches, likeness)
        found = near_duplicates(store, len(stands))
        near = found.stands[stands] != stands
        similarity, stands, compared = found.similarity[stands], found.stands[stands], found.verified
    return RemovalPlan(stands, similarity, near, compared)


def plan_exact(path: Path, ranges: Sequence[Range], policy: DedupePolicy, threads: int) -> tuple[list[int], np.ndarray]:
    """Return the number of records in each range and for each record the first one with the same normalised text.

    Most records differ from all others in more than white space. That is cheap to see, and only the few that do not
    are read again and compared in full.
    """
    if not policy.exact:
        counts = list(in_processes(count_lines, [(path, span) for span in ranges], threads))
        return counts, np.arange(sum(counts))
    parts = list(in_processes(rough_keys_of_range, [(path, span, policy.ignore_case) for span in ranges], threads))
    counts = [len(part) // 4 for part in parts]
    suspects = np.zeros(sum(counts), bool)
    suspects[shared_keys(np.frombuffer(b"".join(parts), np.uint32)) & LOW] = True
    marked = zip(ranges, np.split(suspects, np.cumsum(counts)[:-1]), strict=True)
    tasks = [(path, span, policy.ignore_case, wanted) for span, wanted in marked if wanted.any()]
    first, suspect = np.arange(len(suspects)), np.flatnonzero(suspects)
    keys = b"".join(in_processes(keys_of_range, tasks, min(threads, 1 + len(suspect) // RECORDS_PER_PROCESS)))
    first[suspect] = suspect[first_occurrences(np.frombuffer(keys, "<u8").reshape(-1, 2))]
    return counts, first


def plan_from_keys(parts: Sequence[Path], policy: DedupePolicy) -> tuple[list[int], np.ndarray]:
    """Return what :func:`plan_exact` does, from the keys that shards have computed: 16 bytes for each record."""
    found = list(read_parts(parts))
    counts = [count for count, _ in found]
    if not policy.exact:
        return counts, np.arange(sum(counts))
    return counts, first_occurrences(np.frombuffer(b"".join(keys for _, keys in found), "<u8").reshape(-1, 2))


def absent(counts: Sequence[int], stands: np.ndarray) -> list[np.ndarray]:
    """Return for each range which of its records are out, bool."""
    return np.split(stands != np.arange(len(stands)), np.cumsum(counts)[:-1])


def rough_keys_of_range(path: Path, span: Range, ignore_case: bool) -> bytes:
    """Return 32 bits for each record in a range that agree where the normalised texts do."""
    turns = _folded(read_turns(path, span), ignore_case)
    return np.fromiter((xxhash.xxh3_64_intdigest(rough_bytes(turn)) >> 32 for turn in turns), np.uint32).tobytes()


def keys_of_range(path: Path, span: Range, ignore_case: bool, wanted: np.ndarray | None = None) -> bytes:
    """Return the XXH3-128 of the normalised text of the wanted records in a range, or of all, 16 bytes each."""
    turns = _folded(read_turns(path, span, None if wanted is None else wanted.tolist()), ignore_case)
    return b"".join([xxhash.xxh3_128_digest(key_bytes(turn)) for turn in turns])


def _folded(records: Iterable[list[Turn]], ignore_case: bool) -> Iterable[list[Turn]]:
    """Return the records with all text in lower case if ``ignore_case``."""
    if not ignore_case:
        return records
    return ([(role, content.casefold()) for role, content in turns] for turns in records)
