"""Near-duplicates beside other tools and the full exact truth: `python benchmarks/near_dedupe.py --records 60000`.

The truth is every pair of records at the threshold or above, found by a search that misses nothing (prefix filtering,
not MinHash). Recall is 1 - (records that the truth still removes from what was kept) / (records that it removes from
everything). Records that differ in indentation alone are not duplicates. Precision is the share of removed records that
really are that similar to another one; of ours, to the
very record that is named for it, and by the very number given.

Each contender has a process of its own and reads the same file of canonical records; the time to import it is left
out. The other tools are in near_peers.py; a missing one is named and left out.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import orjson
import xxhash

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]

from corpus import lines, record_of  # noqa: E402
from near_peers import PEERS  # noqa: E402

from snaketune.core.atomic import private_folder  # noqa: E402
from snaketune.data.records.canonical_records import read_turns  # noqa: E402
from snaketune.data.similarity.dedupe import DedupePolicy, plan_removal  # noqa: E402
from snaketune.data.similarity.minhash import near_text  # noqa: E402
from snaketune.data.similarity.near_dedupe import Clusters  # noqa: E402
from snaketune.data.similarity.overlap import SimilarityIndex  # noqa: E402
from snaketune.data.similarity.shingles import ShingleRows, batches, hashes_of_rows, shingled_with_indentation  # noqa: E402

# The number of processes; the first is what the others are compared with.
OURS = {f"snaketune, {count} process{'es' if count > 1 else ''}": count for count in (1, 2, 4)}


def write_canonical(path: Path, records: int, seed: int) -> None:
    """Write the corpus as the reading stage would."""
    with open(path, "wb") as file:
        for line in lines(records, seed):
            record = {"source": 0, "line": line.line, **record_of(line, "messages")}
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def all_rows(path: Path, policy: DedupePolicy) -> tuple[ShingleRows, np.ndarray]:
    """Return the shingles of all records, and hashes of their whole texts without and with indentation."""
    owners, lengths, hashes, wholes, done = [], [np.zeros(1, np.int64)], [], [], 0
    for batch in batches(near_text(turns) for turns in read_turns(path)):
        rows, texts = shingled_with_indentation(batch, policy.ngram, policy.threshold)
        owners.append(rows.owner + done)
        lengths.append(np.diff(rows.offsets))
        hashes.append(rows.hashes)
        wholes.append(texts)
        done += len(batch)
    rows = ShingleRows(np.concatenate(owners), np.concatenate(hashes), np.cumsum(np.concatenate(lengths)))
    return rows, np.concatenate(wholes)


def exact_pairs(rows: ShingleRows, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all pairs of records (x < y) at the threshold or above, and their similarity."""
    index = SimilarityIndex.build(rows, threshold)
    found = []
    for start in range(0, len(rows), 512):
        chosen = np.arange(start, min(start + 512, len(rows)))
        for x, y, similarity in index.similar(ShingleRows(chosen, *hashes_of_rows(rows.hashes, rows.offsets, chosen))):
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


def ours(path: Path, folder: Path, threads: int) -> dict[str, np.ndarray]:
    """Return which records go, what stands for each and how similar it is, with ours; and how many were compared."""
    with private_folder(folder / "scratch") as scratch:
        plan = plan_removal(path, DedupePolicy(near=True), scratch, threads)
    return {
        "gone": plan.representative != np.arange(len(plan.representative)),
        "stands": plan.representative,
        "similarity": plan.similarity,
    }


def peer(name: str, path: Path) -> dict[str, np.ndarray]:
    """Return which records go with another tool."""
    texts = (near_text(turns) for turns in read_turns(path))
    return {"gone": np.fromiter(PEERS[name][1](texts), bool)}


def run_contender(name: str, path: Path, output: Path) -> None:
    """Run one contender in this process and write what it removed and what that cost."""
    if name in PEERS:
        for module in PEERS[name][0]:
            import_module(module)
    cpu, wall = cpu_seconds(), time.perf_counter()
    threads = OURS.get(name)
    found = peer(name, path) if threads is None else ours(path, output.parent, threads)
    cost = (cpu_seconds() - cpu, time.perf_counter() - wall, peak_megabytes())
    np.savez(output, cost=np.array(cost), **found)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_megabytes() -> float:
    """Return the peak resident memory of this process, or of the largest that it waited for.

    Of this one getrusage would give at least what its parent had.
    """
    status = Path("/proc/self/status").read_text()
    own = int(status.split("VmHWM:")[1].split()[0])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def measured(name: str, path: Path, folder: Path, repeats: int) -> dict[str, np.ndarray]:
    """Return what a contender removes, with the medians of CPU and wall seconds and of peak megabytes."""
    output = folder / "found.npz"
    command = [sys.executable, __file__, "--contender", name, "--input", str(path), "--output", str(output)]
    costs = []
    for _ in range(repeats):
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
        with np.load(output) as stored:
            found = dict(stored)
        costs.append(found["cost"])
    return {**found, "cost": np.median(costs, axis=0)}


@dataclass(frozen=True)
class Truth:
    """All pairs of records (x < y) that are similar enough, each once, sorted, with their similarity."""

    records: int
    x: np.ndarray
    y: np.ndarray
    similarity: np.ndarray

    @classmethod
    def of(cls, path: Path, policy: DedupePolicy) -> "Truth":
        """Compare all records of a file."""
        rows, wholes = all_rows(path, policy)
        x, y, similarity = exact_pairs(rows, policy.threshold)
        # Texts that differ in indentation alone are not duplicates.
        apart = (wholes[x, 0] == wholes[y, 0]) & (wholes[x, 1] != wholes[y, 1])
        x, y, similarity = x[~apart], y[~apart], similarity[~apart]
        order = np.lexsort((-similarity, y, x))
        x, y, similarity = x[order], y[order], similarity[order]
        new = np.ones(len(x), bool)
        new[1:] = (x[1:] != x[:-1]) | (y[1:] != y[:-1])
        return cls(int(rows.owner[-1]) + 1, x[new], y[new], similarity[new])

    def score(self, found: dict[str, np.ndarray]) -> dict[str, float]:
        """Return recall and precision of a contender, and, if it says what stands for a record, whether that is so."""
        gone = found["gone"]
        left = ~gone[self.x] & ~gone[self.y]
        needed = removable(self.records, self.x, self.y, self.similarity)
        missed = removable(self.records, self.x[left], self.y[left], self.similarity[left])
        alike = np.zeros(self.records, bool)
        alike[self.x] = alike[self.y] = True
        right = gone & alike
        if "stands" in found:
            right &= self._named(found["stands"], found["similarity"])
        return {
            "removed": int(gone.sum()),
            "recall": round(1 - missed / max(1, needed), 5),
            "precision": round(int(right.sum()) / max(1, int(gone.sum())), 5),
        }

    def _named(self, representative: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """Tell of each record whether it and what stands for it are a true pair of that similarity."""
        keys = self.x * self.records + self.y
        place = np.searchsorted(keys, representative * self.records + np.arange(self.records))
        place[place == len(keys)] = 0
        same = keys[place] == representative * self.records + np.arange(self.records)
        return same & (self.similarity[place] == similarity)


def compare(path: Path, folder: Path, names: list[str], repeats: int) -> dict:
    """Return the figures of all contenders on one file of canonical records."""
    truth, rows = Truth.of(path, DedupePolicy(near=True)), {}
    for name in names:
        found = measured(name, path, folder, repeats)
        cpu, wall, peak = found["cost"].tolist()
        cost = {"records_per_cpu_second": round(truth.records / cpu), "cpu_seconds": round(cpu, 2)}
        rows[name] = {**cost, "wall_seconds": round(wall, 2), "peak_megabytes": round(peak), **truth.score(found)}
        parts = [found[key].tobytes() for key in ("gone", "stands", "similarity") if key in found]
        rows[name]["digest"] = xxhash.xxh3_64_hexdigest(b"".join(parts))
        rows[name]["ours_is_times_faster"] = round(rows[names[0]]["records_per_cpu_second"] * cpu / truth.records, 2)
    return {
        "records": truth.records,
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "true_pairs": len(truth.x),
        "removable": removable(truth.records, truth.x, truth.y, truth.similarity),
        "load": round(os.getloadavg()[0], 1),
        "results": rows,
    }


def report(figures: dict) -> None:
    """Print a table to standard error."""
    print(
        f"{figures['records']:,} records, {figures['megabytes']} MB, {figures['removable']:,} removable at 0.8;"
        f" load {figures['load']}\n{'':32}{'records/CPU-s':>14}{'ours is':>9}{'wall s':>8}{'peak MB':>8}"
        f"{'removed':>9}{'recall':>8}{'precision':>10}  digest",
        file=sys.stderr,
    )
    for name, row in figures["results"].items():
        print(
            f"{name:32}{row['records_per_cpu_second']:14,}{row['ours_is_times_faster']:8.1f}x{row['wall_seconds']:8.1f}"
            f"{row['peak_megabytes']:8}{row['removed']:9,}{row['recall']:8.4f}{row['precision']:10.4f}"
            f"  {row['digest']}",
            file=sys.stderr,
        )


def main() -> None:
    """Measure on corpora made for it, or on a file of canonical records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=60_000)
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="one corpus is made for each")
    parser.add_argument("--repeats", type=int, default=1, help="medians are given")
    parser.add_argument("--ours", action="store_true", help="leave the other tools out")
    parser.add_argument("--input", type=Path, help="canonical records to measure on instead")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        run_contender(arguments.contender, arguments.input, arguments.output)
        return
    present = [name for name, (modules, _) in PEERS.items() if all(map(find_spec, modules))]
    for name in sorted(PEERS.keys() - present):
        print(f"{name}: not installed ({' and '.join(PEERS[name][0])} are needed).", file=sys.stderr)
    names = [*OURS, *([] if arguments.ours else present)]
    figures = []
    with tempfile.TemporaryDirectory() as name:
        for seed in [None] if arguments.input else arguments.seed:
            path = arguments.input or Path(name) / "records.jsonl"
            if seed is not None:
                write_canonical(path, arguments.records, seed)
            figures.append({"seed": seed, **compare(path, Path(name), names, arguments.repeats)})
            report(figures[-1])
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
