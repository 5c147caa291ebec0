"""How long the workflow itself takes: the example from nothing, and the same command when nothing is to be done.

Run `python benchmarks/workflow.py` in the environment. Targets: at most 120 s and 1.5 GB for the example after
set-up on 2 cores. The floor that doing nothing is compared with, in the same run, is Snakemake in an empty folder with
a Snakefile of one rule: at most 1.5 times its processor time with one run, at most 2.5 s above it with fifty, each
of which costs at most 0.05 s. The fifty are copies of the example's results under other seeds: a start looks at the
files of each and reads none. Times are measured, in seconds: of a clock, or of processors where the name says `cpu`.
"""

import argparse
import csv
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.config.strict_yaml import load_yaml
from snaketune.workflow.stages import stage_id

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "scripts", "config", "profiles", "envs", "docs")
RUNS = 50
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
        figures = {
            "example_seconds": round(fresh, 1),
            "example_peak_mb": round(max(peaks(Path(folder))), 0),
            **evaluation(Path(folder)),
            **starts(command, Path(folder), arguments.repeats),
        }
    print(json.dumps(figures, indent=2))


def starts(command: list[str], folder: Path, repeats: int) -> dict[str, float]:
    """Return what doing nothing costs with one run and with many, beside the floor, measured by turns."""
    floor, many = folder.with_name(f"{folder.name}-floor"), folder.with_name(f"{folder.name}-many")
    floor.mkdir()
    (floor / "Snakefile").write_text("rule train:\n    input: 'Snakefile'\n")
    shutil.copytree(folder, many, symlinks=True)
    try:
        multiply_runs(many)
        seconds([*command, "--touch"], many)
        places = {"floor": floor, "one_run": folder, "many_runs": many}
        taken = [{name: cpu_seconds(command, place) for name, place in places.items()} for _ in range(repeats)]
    finally:
        shutil.rmtree(floor)
        shutil.rmtree(many)
    median = {name: statistics.median(each[name] for each in taken) for name in places}
    return {
        **{f"nothing_cpu_seconds_{name}": round(value, 2) for name, value in median.items()},
        "nothing_one_run_to_floor_ratio": round(median["one_run"] / median["floor"], 2),
        f"nothing_{RUNS}_runs_above_floor_cpu_seconds": round(median["many_runs"] - median["floor"], 2),
        "nothing_cpu_seconds_per_run": round((median["many_runs"] - median["one_run"]) / (RUNS - 1), 3),
    }


def multiply_runs(folder: Path) -> None:
    """Give a finished project many runs, each with a copy of the one run's results under its own name and id."""
    config = folder / "config" / "config.yaml"
    (name,) = (path.name for path in (folder / "results" / "runs").iterdir())
    made = (folder / "results" / "runs" / name / "latest").resolve()
    given = load_yaml(config, "config.yaml")
    given["runs"] = {f"run{number}": {"train": {"seed": number}} for number in range(RUNS)}
    config.write_text(json.dumps(given))
    for run in resolve_runs(Layer("config.yaml", given), {}, folder / "config" / "presets"):
        shutil.copytree(made, folder / "results" / "runs" / run.name / stage_id(run.config, "train_model"))


def cpu_seconds(command: list[str], folder: Path) -> float:
    """Return the processor time of a command that must succeed, with that of its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds(command, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def copy(folder: Path) -> None:
    """Copy the workflow without results."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)


def seconds(command: list[str], folder: str | Path) -> float:
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
