"""What the training records would give away of the held-out ones: texts that are alike, and prompts on both sides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from snaketune.common.errors import DataError
from snaketune.data.minhash import near_text
from snaketune.data.overlap import SimilarityIndex
from snaketune.data.parallel import in_processes
from snaketune.data.records import Range, count_lines, key_bytes, line_ranges, prompt_of, read_turns
from snaketune.data.shingles import Rows, batches, shingled

NGRAM = 5
# No pair this similar may be left on the two sides of a split.
FORBIDDEN = 0.8
THRESHOLDS = (0.5, FORBIDDEN, 1.0)


@dataclass(frozen=True, slots=True)
class Side:
    """Some of the records of a file.

    Attributes:
        path: canonical records.
        chosen: bool [records], or None for all.
    """

    path: Path
    chosen: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Leaks:
    """The training records that are similar to a held-out one, each with the one it is most similar to.

    Attributes:
        train: int64 [leaks], index of the training record in its file, ascending.
        evaluation: int64 [leaks], index of the held-out record.
        similarity: float64 [leaks], exact Jaccard similarity of their shingles.
        closest: float64 [held-out records], the highest similarity to any training record, 0 below the threshold.
    """

    train: np.ndarray
    evaluation: np.ndarray
    similarity: np.ndarray
    closest: np.ndarray

    def counts(self, least: float) -> dict[str, int]:
        """Return how many held-out records have a training record as similar as ``least``, 0.5, 0.8 and 1."""
        wanted = sorted({least, *(threshold for threshold in THRESHOLDS if threshold >= least)})
        return {f"{threshold:g}": int(np.count_nonzero(self.closest >= threshold)) for threshold in wanted}


def find_leaks(train: Side, evaluation: Side, threshold: float, folder: Path, threads: int = 1) -> Leaks:
    """Find every training record whose similarity to a held-out record reaches ``threshold``: none is missed.

    Args:
        train: the records to search.
        evaluation: the records that must not be given away; their shingles are held in memory.
        threshold: Jaccard similarity; also decides which texts count as short.
        folder: an empty folder for temporary files.
        threads: processes to use; they do not change the result.
    """
    rows = _rows(list(in_processes(shingles_of_range, _tasks(evaluation, threshold), threads)))
    SimilarityIndex.build(rows, threshold).save(folder / "held_out")
    tasks = [(*task, folder / "held_out") for task in _tasks(train, threshold)]
    closest = np.zeros(int(rows.owner[-1]) + 1 if len(rows) else 0)
    found: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for leaks, record, similarity in in_processes(leaks_of_range, tasks, threads):
        np.maximum.at(closest, record, similarity)
        found.append(leaks)
    record, other, similarity = (np.concatenate(column) for column in zip(*found, strict=True))
    return Leaks(record, other, similarity, closest)


def _tasks(side: Side, threshold: float) -> list[tuple]:
    """Return (path, range, chosen records of the range, index of its first record, threshold) for each range."""
    ranges = line_ranges(side.path)
    firsts = np.cumsum([0, *(count_lines(side.path, span) for span in ranges)])
    chosen = np.ones(firsts[-1], bool) if side.chosen is None else side.chosen
    return [
        (side.path, span, chosen[first:stop], int(first), threshold)
        for span, first, stop in zip(ranges, firsts[:-1], firsts[1:], strict=True)
    ]


def _shingled_batches(path: Path, span: Range, chosen: np.ndarray, first: int, threshold: float) -> Iterator[Rows]:
    """Yield shingles of the chosen records of a range, owned by the index of the record in the file."""
    records = np.flatnonzero(chosen) + first
    done = 0
    for batch in batches(near_text(turns) for turns in read_turns(path, span, chosen.tolist())):
        rows = shingled(batch, NGRAM, threshold)
        yield Rows(records[done + rows.owner], rows.hashes, rows.offsets)
        done += len(batch)


def shingles_of_range(path: Path, span: Range, chosen: np.ndarray, first: int, threshold: float) -> Rows:
    """Return the shingles of the chosen records of a range."""
    return _rows(list(_shingled_batches(path, span, chosen, first, threshold)))


def _rows(parts: Sequence[Rows]) -> Rows:
    owner = np.concatenate([np.zeros(0, np.int64), *(part.owner for part in parts)])
    hashes = np.concatenate([np.zeros(0, np.uint64), *(part.hashes for part in parts)])
    lengths = np.concatenate([[0], *(np.diff(part.offsets) for part in parts)])
    return Rows(owner, hashes, np.cumsum(lengths.astype(np.int64)))


def leaks_of_range(
    path: Path, span: Range, chosen: np.ndarray, first: int, threshold: float, index: Path
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Search a range of training records.

    Returns:
        (training record, the held-out record most similar to it, similarity), the held-out records that are similar
        to anything in the range, and how similar at most.
    """
    held_out = SimilarityIndex.load(index, threshold)
    best: list[np.ndarray] = []
    closest = np.zeros(len(held_out.rows))
    for rows in _shingled_batches(path, span, chosen, first, threshold):
        x, y, similarity = held_out.similar(rows)
        np.maximum.at(closest, y, similarity)
        record, other = rows.owner[x], held_out.rows.owner[y]
        order = np.lexsort((other, -similarity, record))
        order = order[np.unique(record[order], return_index=True)[1]]
        best.append(np.stack([record[order], other[order], similarity[order]]))
    record, other, similarity = np.concatenate([np.zeros((3, 0)), *best], axis=1)
    near = np.flatnonzero(closest)
    return (record.astype(np.int64), other.astype(np.int64), similarity), held_out.rows.owner[near], closest[near]


def check_sides(train: Path, evaluation: Path, alike: bool, folder: Path, threads: int = 1) -> dict[str, int]:
    """Read both finished sides again and return what they share, which is nothing.

    Args:
        train: the records that are trained on.
        evaluation: the held-out records.
        alike: whether to look for texts that are alike, too.
        folder: an empty folder for temporary files.
        threads: processes to use.

    Raises:
        DataError: if a prompt is on both sides or two texts are too much alike.
    """
    prompts = [_prompt_keys(path, threads) for path in (train, evaluation)]
    shared = {"shared_prompts": int(np.isin(prompts[1], prompts[0]).sum())}
    if alike:
        shared["similar_pairs"] = len(find_leaks(Side(train), Side(evaluation), FORBIDDEN, folder, threads).train)
    if any(shared.values()):
        raise DataError(
            f"split: after splitting {shared} are left on both sides, which must not happen: please report it with the"
            " configuration; another split.seed may avoid it."
        )
    return shared


def _prompt_keys(path: Path, threads: int) -> np.ndarray:
    tasks = [(path, span) for span in line_ranges(path)]
    return np.frombuffer(b"".join(in_processes(prompt_keys_of_range, tasks, threads)), np.uint64)


def prompt_keys_of_range(path: Path, span: Range) -> bytes:
    """Return a 64-bit hash of each normalised prompt of a range, 8 bytes each in the machine's order."""
    hashes = (xxhash.xxh3_64_intdigest(key_bytes(prompt_of(turns))) for turns in read_turns(path, span))
    return np.fromiter(hashes, np.uint64).tobytes()
