"""Compare our near-duplicates with the full exact truth: `python benchmarks/near_dedupe.py --records 100000`.

The truth is every pair of records at the threshold or above, found by a search that misses nothing (prefix filtering,
not MinHash). Recall is 1 - (records that the truth still removes from what was kept) / (records that it removes from
everything); precision is the share of removed records that really are that similar to the record named for them.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]

from corpus import lines, record_of  # noqa: E402

from snaketune.common.atomic import private_folder  # noqa: E402
from snaketune.data.dedupe import DedupePolicy, plan_removal  # noqa: E402
from snaketune.data.minhash import near_text  # noqa: E402
from snaketune.data.near_dedupe import Clusters  # noqa: E402
from snaketune.data.overlap import SimilarityIndex  # noqa: E402
from snaketune.data.records import read_turns  # noqa: E402
from snaketune.data.shingles import Rows, batches, gathered, shingled  # noqa: E402


def write_canonical(path: Path, records: int, seed: int) -> None:
    """Write the corpus as the reading stage would."""
    with open(path, "wb") as file:
        for line in lines(records, seed):
            record = {"source": 0, "line": line.line, **record_of(line, "messages")}
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def all_rows(path: Path, policy: DedupePolicy) -> Rows:
    """Return the shingles of all records."""
    owners, lengths, hashes, done = [], [np.zeros(1, np.int64)], [], 0
    for batch in batches(near_text(turns) for turns in read_turns(path)):
        rows = shingled(batch, policy.ngram, policy.threshold)
        owners.append(rows.owner + done)
        lengths.append(np.diff(rows.offsets))
        hashes.append(rows.hashes)
        done += len(batch)
    return Rows(np.concatenate(owners), np.concatenate(hashes), np.cumsum(np.concatenate(lengths)))


def exact_pairs(rows: Rows, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all pairs of records (x < y) at the threshold or above, and their similarity."""
    index = SimilarityIndex.build(rows, threshold)
    found = []
    for start in range(0, len(rows), 512):
        chosen = np.arange(start, min(start + 512, len(rows)))
        x, y, similarity = index.similar(Rows(chosen, *gathered(rows.hashes, rows.offsets, chosen)))
        one, other = rows.owner[chosen[x]], rows.owner[y]
        once = one < other
        found.append((one[once], other[once], similarity[once]))
    x, y, similarity = (np.concatenate(column) for column in zip(*found, strict=True))
    return x, y, similarity


def removable(records: int, x: np.ndarray, y: np.ndarray, similarity: np.ndarray) -> int:
    """Return how many records go when the given pairs are all there are."""
    clusters = Clusters(records)
    clusters.learn(x, y, similarity)
    return int(np.count_nonzero(~clusters.stays))


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure(path: Path, policy: DedupePolicy, folder: Path, threads: int) -> dict:
    """Plan the removal and compare it with the truth."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    with private_folder(folder / "scratch") as scratch:
        plan = plan_removal(path, policy, scratch, threads)
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    count = len(plan.stands)
    x, y, similarity = exact_pairs(all_rows(path, policy), policy.threshold)
    stays = plan.stands == np.arange(count)
    left = stays[x] & stays[y]
    needed, missed = removable(count, x, y, similarity), removable(count, x[left], y[left], similarity[left])
    best: dict[tuple[int, int], float] = {}
    for one, other, value in zip(x.tolist(), y.tolist(), similarity.tolist(), strict=True):
        best[one, other] = max(value, best.get((one, other), 0.0))
    removed = plan.removed.tolist()
    right = sum(best.get((int(plan.stands[record]), record)) == plan.similarity[record] for record in removed)
    return {
        "records": count,
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "threads": threads,
        "wall_seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "records_per_cpu_second": round(count / cpu),
        "peak_rss_megabytes": round(peak),
        "true_pairs": len(best),
        "removable": needed,
        "removed": len(removed),
        "recall": round(1 - missed / max(1, needed), 5),
        "precision": round(right / max(1, len(removed)), 5),
    }


def main() -> None:
    """Measure on a corpus made for it, or on a file of canonical records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--input", type=Path, help="canonical records to measure on instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = arguments.input or folder / "records.jsonl"
        if not arguments.input:
            write_canonical(path, arguments.records, arguments.seed)
        print(json.dumps(measure(path, DedupePolicy(), folder, arguments.threads)))


if __name__ == "__main__":
    main()
