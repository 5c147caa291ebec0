"""How long the workflow itself takes: the example from nothing, and the same command when nothing is to be done.

Run `python benchmarks/workflow.py` in the environment. Targets: at most 120 s and 1.5 GB for the example after
set-up on 2 cores, at most 3 s for doing nothing. The alternative that doing nothing is compared with, in the same run,
is starting Snakemake at all (`snakemake --version`): the ratio is what the workflow's own checks cost. Wall times in
seconds, measured.
"""

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "scripts", "config", "profiles", "envs", "docs")
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))


def main() -> None:
    """Measure in a temporary copy and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", default="8")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        command = [SNAKEMAKE, "--cores", arguments.cores, "train"]
        fresh = seconds(command, folder)
        nothing, bare = [], []
        for _ in range(arguments.repeats):
            nothing.append(seconds(command, folder))
            bare.append(seconds([SNAKEMAKE, "--version"], folder))
        figures = {
            "example_seconds": round(fresh, 1),
            "example_peak_mb": round(max(peaks(Path(folder))), 0),
            "nothing_seconds_median": round(statistics.median(nothing), 2),
            "snakemake_version_seconds_median": round(statistics.median(bare), 2),
            "ratio": round(statistics.median(nothing) / statistics.median(bare), 2),
            **evaluation(Path(folder)),
        }
    print(json.dumps(figures, indent=2))


def copy(folder: Path) -> None:
    """Copy the workflow without results."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)


def seconds(command: list[str], folder: str) -> float:
    """Return the wall time of a command that must succeed."""
    started = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.monotonic() - started


def peaks(folder: Path) -> list[float]:
    """Return the peak resident memory of every job in MB, as Snakemake's benchmarks sampled it."""
    found = []
    for path in folder.glob("benchmarks/*/*.tsv"):
        with open(path) as file:
            found += [float(row["max_rss"]) for row in csv.DictReader(file, delimiter="\t") if row["max_rss"] != "NA"]
    return found


def evaluation(folder: Path) -> dict[str, float]:
    """Return what the example learned."""
    facts = json.loads((folder / "results/runs/quickstart/latest/evaluation.json").read_text())
    return {f"exact_match_{name}": facts[name]["exact_match"] for name in ("base", "tuned", "merged")}


if __name__ == "__main__":
    main()
