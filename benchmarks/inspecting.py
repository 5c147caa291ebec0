"""How long `snakemake inspect` takes until its page is there: `python benchmarks/inspecting.py --megabytes 1000`.

It makes a seeded source in a temporary copy of the workflow and prints JSON: wall seconds and CPU seconds of the whole
command, median of several, for a small source and for the large one, whose ratio says that only its beginning is read.
The target is 5 s of wall time on an idle machine with 1 GB.
"""

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path
from statistics import median

from reading import write_corpus
from workflow import SNAKEMAKE, copy, seconds

CONFIG = "data: {sources: [source.jsonl]}\nmodel: {name_or_path: tiny}\nruns: {one: {}}\n"


def main() -> None:
    """Measure in a temporary copy and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        (Path(folder) / "config" / "config.yaml").write_text(CONFIG)
        figures = {}
        for name, megabytes in (("small", 1), ("large", arguments.megabytes)):
            write_corpus(Path(folder) / "source.jsonl", megabytes * 1_000_000, "messages", 0, 1)
            figures[name] = measured(folder, arguments.repeats)
    figures["ratio_cpu"] = round(figures["large"]["cpu_seconds"] / figures["small"]["cpu_seconds"], 2)
    print(json.dumps(figures, indent=2))


def measured(folder: str, repeats: int) -> dict[str, float]:
    """Return wall and CPU seconds of the command; the large file is in the page cache after the first time."""
    page = Path(folder) / "results" / "inspect.html"
    walls, used = [], []
    for _ in range(repeats):
        before = cpu_seconds()
        page.unlink(missing_ok=True)
        walls.append(seconds([SNAKEMAKE, "--cores", "1", "inspect"], folder))
        used.append(cpu_seconds() - before)
        if not page.is_file():
            sys.exit("inspect wrote no page")
    return {"wall_seconds": round(median(walls), 2), "cpu_seconds": round(median(used), 2)}


def cpu_seconds() -> float:
    """Return the CPU seconds of all children so far."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


if __name__ == "__main__":
    main()
