"""The whole data path, stage to packed rows, as users run it: `python benchmarks/data.py --records 35000 350000`.

It makes one corpus, of which smaller sizes are the beginning (or takes the JSON lines given with --input), runs
`snakemake data` in a temporary copy of the workflow with near-duplicates and a similarity limit on, and tells per stage
wall and CPU seconds and peak memory of its job. CPU and memory of stages are Snakemake's samples, from which processes
that ended in between are missing; the CPU of all of them together is exact, and what is left over is in "the rest", as
is the workflow itself. Between sizes it compares what a record costs. Preparing the base model
(a tokenizer of 32,768 tokens learned from the corpus) is no part of the data path and not counted.

Targets on 2 idle cores: 350,000 records in at most 90 s and 2 GB, linear from 35,000 to 350,000 within 15%, 2,000,000
records in at most 5 minutes; from 30,000 to 3,000,000 slopes of at most 1.1 and at most 3 GB of memory. These need some
30 GB on the disk of --folder. `--small --records 3000000 30000000` shows what a record takes of each stage's memory
(docs/scaling.md). The table goes to standard error, JSON to standard output.

How the stages compare with other tools is measured by reading.py, near_dedupe.py and tokens.py beside this file.
"""

import argparse
import csv
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from corpus import write_corpus
from workflow import SNAKEMAKE, copy

STAGES = (
    "stage_sources",
    "read_records",
    "dedupe_records",
    "split_records",
    "tokenize_records",
    "rightsize",
    "pack_rows",
)
CONFIG = """
data: {{sources: [{source}]}}
model:
  name_or_path: tiny
  tiny: {{corpus: data, vocab_size: 32768, pretrain_steps: 0, max_position_embeddings: 16384}}
dedupe: {{near: true}}
split: {{max_similarity: 0.5, test_size: {test_size}}}
tokens: {{max_length: 4096, on_too_long: truncate}}
"""
WATCHED_EVERY = 0.5
REST = "the rest"


def main() -> None:
    """Measure every size asked for and print all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[35_000])
    parser.add_argument("--small", action="store_true", help="records of about 100 bytes: for memory by their number")
    parser.add_argument("--input", type=Path, help="JSON lines to use instead of a generated corpus")
    parser.add_argument("--test-size", type=float, default=0.05, help="split.test_size")
    parser.add_argument("--cores", default="2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; the system's temporary folder if not given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        corpus = arguments.input or Path(name) / "corpus.jsonl"
        if arguments.small:
            write_small(corpus, max(arguments.records), arguments.seed)
        elif not arguments.input:
            write_corpus(corpus, None, max(arguments.records), arguments.seed)
        figures = []
        for size in [None] if arguments.input else sorted(arguments.records):
            figures.append(
                measure(Path(name) / f"run-{size}", corpus.resolve(), size, arguments.cores, arguments.test_size)
            )
            print(table(figures[-1]), file=sys.stderr, flush=True)
    found: dict = {"sizes": figures}
    if len(figures) > 1:
        found["cost_of_a_record"] = [growth(figures[0], other) for other in figures[1:]]
        found["bytes_of_memory_per_record"] = memory_per_record(figures[0], figures[-1])
        for entry in found["cost_of_a_record"]:
            told = ", ".join(f"{key} {value:.2f}" for key, value in entry.items() if key.endswith("times"))
            print(f"A record of {entry['records']:,}, of {entry['of']:,} = 1: {told}", file=sys.stderr)
            told = ", ".join(f"{name} {value:.2f}" for name, value in entry["slopes"].items())
            print(f"Log-log slopes of wall seconds (1 is linear): {told}", file=sys.stderr)
    print(json.dumps(found, indent=2))


def write_small(path: Path, records: int, seed: int) -> None:
    """Write records of a few words, none of them a duplicate: what a stage keeps for each record decides its memory."""
    words = [f"{first}{last}" for first in ("ka", "lo", "mi", "ne", "pu", "ra", "so", "ti") for last in "bdfgklmnprst"]
    chosen = random.Random(seed)
    with open(path, "w") as file:
        for number in range(records):
            answer = " ".join(chosen.choices(words, k=8))
            file.write(f'{{"prompt":"{number} {chosen.choice(words)}?","completion":"{answer}"}}\n')


def measure(folder: Path, corpus: Path, records: int | None, cores: str, test_size: float) -> dict:
    """Return the figures of the first ``records`` lines of a corpus; leave nothing in ``folder``."""
    folder.mkdir()
    copy(folder)
    source = folder / "corpus.jsonl"
    if records is None:
        source.symlink_to(corpus)
    else:
        with open(corpus, "rb") as lines, open(source, "wb") as file:
            file.writelines(islice(lines, records))
    (folder / "config" / "config.yaml").write_text(CONFIG.format(source=source.name, test_size=test_size))
    load = os.getloadavg()[0]
    with Usage(folder) as usage:
        first = timed(folder, cores, "split_records")
        timed(folder, cores, "prepare_tokenizer")
        second = timed(folder, cores)
    found = figures_of(folder, [first, second])
    found |= {"megabytes": round(source.stat().st_size / 1e6, 1), "load_before": round(load, 1), **usage.figures()}
    shutil.rmtree(folder)
    return found


def timed(folder: Path, cores: str, last: str | None = None) -> tuple[float, float]:
    """Run the data path, up to the rule ``last`` if one is named, and return its wall and CPU seconds."""
    wall, cpu = time.monotonic(), cpu_seconds()
    command = [SNAKEMAKE, "--cores", cores, *(["--until", last] if last else []), "--", "data"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    return time.monotonic() - wall, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """Return the CPU seconds of all processes waited for so far, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Usage:
    """The most bytes that a folder and the scratch space in it took while the block ran, looked at twice a second."""

    def __init__(self, folder: Path):
        self._folder, self._stop = folder, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._most = self._most_temporary = 0

    def __enter__(self) -> "Usage":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(WATCHED_EVERY):
            self._most = max(self._most, bytes_under(self._folder))
            self._most_temporary = max(self._most_temporary, bytes_under(self._folder / "work"))

    def figures(self) -> dict[str, int]:
        """Return both in megabytes."""
        return {"disk_mb": round(self._most / 1e6), "temporary_disk_mb": round(self._most_temporary / 1e6)}


def bytes_under(folder: Path) -> int:
    """Return the size of all files under a folder, some of which may be gone before they are looked at."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).lstat().st_size
    return total


def figures_of(folder: Path, parts: list[tuple[float, float]]) -> dict:
    """Return what the stages cost, together and each, and what became of the records."""
    stages = {stage: job_figures(folder, stage) for stage in STAGES}
    wall, cpu = (sum(column) for column in zip(*parts, strict=True))
    around = [total - sum(stage[key] for stage in stages.values()) for total, key in ((wall, "wall_s"), (cpu, "cpu_s"))]
    stages[REST] = {"wall_s": around[0], "cpu_s": around[1], "peak_mb": 0.0}
    read, packed = (manifest(folder, stage) for stage in ("read_records", "pack_rows"))
    dedupe, split = (manifest(folder, stage) for stage in ("dedupe_records", "split_records"))
    return {
        "records": read["records"],
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "peak_mb": max(stage["peak_mb"] for stage in stages.values()),
        "removed_exact": dedupe["removed_exact"],
        "removed_near": dedupe["removed_near"],
        "dropped_similar": split["dropped_similar"],
        "rows": packed["splits"]["train"]["rows"],
        "packing_efficiency": packed["splits"]["train"]["efficiency"],
        "stages": {name: {key: round(value, 1) for key, value in stage.items()} for name, stage in stages.items()},
    }


def manifest(folder: Path, stage: str) -> dict:
    """Return the manifest of a stage."""
    return json.loads(next(folder.glob(f"results/data/{stage}/*/manifest.json")).read_bytes())


def job_figures(folder: Path, stage: str) -> dict[str, float]:
    """Return wall seconds, CPU seconds and peak resident memory (MB) of a stage's job as Snakemake sampled them."""
    with open(next(folder.glob(f"benchmarks/{stage}/*.tsv"))) as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    number = {key: float(row[key]) if row[key] != "NA" else 0.0 for key in ("s", "cpu_time", "max_rss")}
    return {"wall_s": number["s"], "cpu_s": number["cpu_time"], "peak_mb": number["max_rss"]}


def growth(first: dict, other: dict) -> dict:
    """Return how many times as much a record costs among more of them, and the log-log slopes of wall seconds."""

    def slope(one: dict, two: dict) -> float:
        return round(math.log(max(two["wall_s"], 0.1) / max(one["wall_s"], 0.1)) / math.log(more), 3)

    more = other["records"] / first["records"]
    return {
        "records": other["records"],
        "of": first["records"],
        "wall_times": round(other["wall_s"] / first["wall_s"] / more, 3),
        "cpu_times": round(other["cpu_s"] / first["cpu_s"] / more, 3),
        "slopes": {
            "all": slope(first, other),
            **{name: slope(first["stages"][name], other["stages"][name]) for name in STAGES},
        },
    }


def memory_per_record(first: dict, other: dict) -> dict[str, float]:
    """Return how many bytes the peak of each stage grew for each further record."""
    more = other["records"] - first["records"]
    grown = {name: other["stages"][name]["peak_mb"] - first["stages"][name]["peak_mb"] for name in STAGES}
    return {name: round(grown_mb * 1e6 / more, 1) for name, grown_mb in grown.items()}


def table(found: dict) -> str:
    """Return the figures of one size as text."""
    lines = [
        f"{found['records']:,} records, {found['megabytes']} MB: {found['wall_s']} s wall, {found['cpu_s']} s CPU,"
        f" {found['peak_mb']:.0f} MB memory, {found['disk_mb']} MB disk ({found['temporary_disk_mb']} MB of it"
        f" temporary); load before {found['load_before']}",
        f"{'':26}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'records/CPU-s':>15}",
    ]
    for name, stage in found["stages"].items():
        rate = f"{found['records'] / stage['cpu_s']:15,.0f}" if stage["cpu_s"] else f"{'':15}"
        lines.append(f"{name:26}{stage['wall_s']:9.1f}{stage['cpu_s']:9.1f}{stage['peak_mb']:9.0f}{rate}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
