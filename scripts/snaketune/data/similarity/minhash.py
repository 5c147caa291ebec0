"""MinHash signatures, which estimate Jaccard similarity, and LSH bands, which bring similar records together.

Comparing all pairs is quadratic. Locality-sensitive hashing (LSH) cuts each signature into bands and hashes each band
to a bucket: only records that share a bucket are compared. Signatures merely propose candidates; exact Jaccard
similarity decides (:mod:`snaketune.data.similarity.near_dedupe`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snaketune.data.parallel import in_processes
from snaketune.data.records.canonical_records import Range, RoleAndText, read_turns
from snaketune.data.similarity.bitmaps import BITMAP_WORDS, bitmaps
from snaketune.data.similarity.shingles import ShingleRows, batches, shingled_with_indentation
from snaketune.data.similarity.sorted_keys import HALF
from snaketune.data.similarity.word_hashing import constants

# The largest acceptable probability that the bands miss a pair exactly at the threshold; above it they miss far fewer.
MISSED = 1e-3
MOST_ROWS_OF_A_BAND = 16


@dataclass(frozen=True, slots=True)
class SimilarityCriteria:
    """Criteria for near duplicates, from the ``dedupe`` section of the configuration."""

    threshold: float = 0.8
    num_perm: int = 125
    ngram: int = 5

    @property
    def banding(self) -> tuple[int, int]:
        """The number of bands and of rows per band: the widest bands that still find pairs at the threshold."""
        # Two records of similarity s agree in one band of r values with probability s^r, so all b bands miss the pair
        # with (1 - s^r)^b (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4). Wider bands bring
        # fewer chance meetings to compare: the widest that still misses almost nothing at the threshold is taken.
        for rows in range(MOST_ROWS_OF_A_BAND, 1, -1):
            bands = self.num_perm // rows
            if (1 - self.threshold**rows) ** bands < MISSED:
                return bands, rows
        return self.num_perm, 1


def near_text(turns: list[RoleAndText]) -> str:
    """Return the text by which records are compared; system prompts are left out, since many records share one."""
    # Leading white space counts as indentation only in a turn of several lines, where it can carry meaning.
    return "\n".join([text if "\n" in text else text.strip() for role, text in turns if role != "system"])


def sketch_range(
    path: Path, span: Range, skip: np.ndarray, first: int, criteria: SimilarityCriteria, part: Path
) -> Path:
    """Write owners, lengths, shingles, sketches, bitmaps, band keys and hashes of whole texts to files ``part``.*."""
    chosen = np.flatnonzero(~skip)
    texts = (near_text(turns) for turns in read_turns(path, span, (~skip).tolist()))
    owners, lengths, shingles, sketches, maps, keys, wholes = [], [], [], [], [], [], []
    done = 0
    for batch in batches(texts):
        # Indentation counts in the shingles, but a pair that differs in nothing else is excluded later by the two
        # hashes of the whole text: a changed indentation can be lost among many equal shingles.
        rows, hashes = shingled_with_indentation(batch, criteria.ngram, criteria.threshold)
        signatures = minhash(rows, criteria.num_perm)
        owners.append(chosen[rows.owner + done] + first)
        lengths.append(np.diff(rows.offsets))
        shingles.append(rows.hashes)
        # One byte per value suffices to estimate similarity (b-bit minwise hashing, Li and König 2010): values agree by
        # chance once in 256, which only lets a few more candidates through to the exact comparison.
        sketches.append(signatures.T.astype(np.uint8))
        maps.append(bitmaps(rows))
        wholes.append(hashes[rows.owner])
        keys.append(band_keys(signatures, *criteria.banding))
        done += len(batch)
    empty_keys = np.zeros((criteria.banding[0], 0), np.uint32)
    for name, arrays, empty in (
        ("owners", owners, np.zeros(0, np.int64)),
        ("lengths", lengths, np.zeros(0, np.int64)),
        ("shingles", shingles, np.zeros(0, np.uint64)),
        ("sketches", sketches, np.zeros((0, criteria.num_perm), np.uint8)),
        ("bitmaps", maps, np.zeros((0, BITMAP_WORDS), np.uint64)),
        ("wholes", wholes, np.zeros((0, 2), np.uint64)),
    ):
        np.save(part.with_suffix(f".{name}.npy"), np.concatenate([empty, *arrays]))
    np.save(part.with_suffix(".keys.npy"), np.concatenate([empty_keys, *keys], axis=1))
    return part


def minhash(rows: ShingleRows, count: int) -> np.ndarray:
    """Return MinHash signatures of the rows, uint32 [count, rows], under affine permutations of 32-bit hashes."""
    hashes = (rows.hashes >> HALF).astype(np.uint32)
    factors, shifts = (constants(count, seed).astype(np.uint32) for seed in (3, 4))
    signatures = np.empty((count, len(rows)), np.uint32)
    permuted = np.empty_like(hashes)
    if len(rows):
        # The chance that two sets have the same minimum under a random permutation is their Jaccard similarity (Broder
        # 1997). x -> a x + b modulo 2^32 with an odd a permutes the 32-bit hashes: the overflow is wanted.
        for index in range(count):
            np.multiply(hashes, factors[index], out=permuted)
            permuted += shifts[index]
            np.minimum.reduceat(permuted, rows.offsets[:-1], out=signatures[index])
    return signatures


def band_keys(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """Return one 32-bit key per band and row of shingles, uint32 [bands, rows].

    Keys that collide by chance only add candidates, which the exact comparison rejects.
    """
    values = signatures[: bands * rows].reshape(bands, rows, -1).astype(np.uint64)
    keys = np.zeros((bands, signatures.shape[1]), np.uint64)
    for index, factor in enumerate(constants(rows, 5)):
        keys += values[:, index] * factor
        # Multiplication carries bits upwards only; the shift brings them down, so that every value affects the upper
        # half.
        keys ^= keys >> np.uint64(29)
    found: np.ndarray = (keys * constants(1, 6)[0] >> HALF).astype(np.uint32)
    return found


def sketch_ranges(
    path: Path,
    ranges: Sequence[Range],
    skip: Sequence[np.ndarray],
    criteria: SimilarityCriteria,
    folder: Path,
    threads: int = 1,
) -> list[Path]:
    """Write the sketches of a file of canonical records and return their paths.

    Args:
        path: the records.
        ranges: byte ranges of whole lines that cover the file.
        skip: for each range which of its records are already removed, bool.
        criteria: what counts as similar.
        folder: an empty folder for the sketches.
        threads: processes to use; the result depends neither on their number nor on the ranges.
    """
    return list(in_processes(sketch_range, sketching_tasks(path, ranges, skip, criteria, folder), threads))


def sketching_tasks(
    path: Path, ranges: Sequence[Range], skip: Sequence[np.ndarray], criteria: SimilarityCriteria, folder: Path
) -> list[tuple[Any, ...]]:
    """Return the arguments of ``sketch_range`` for each range."""
    firsts = np.cumsum([0, *(len(part) for part in skip)]).tolist()
    return [
        (path, span, out, first, criteria, folder / f"{index:06d}")
        for index, (span, out, first) in enumerate(zip(ranges, skip, firsts, strict=False))
    ]


def sketches_in(folders: Sequence[Path]) -> list[Path]:
    """Return the paths of the sketches in the folders, in the order of the records."""
    found = {path.name.split(".")[0]: path.parent for folder in folders for path in folder.glob("*.keys.npy")}
    return [folder / name for name, folder in sorted(found.items())]
