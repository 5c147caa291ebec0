"""How long a person waits from `snakemake train` to the first training step, with data and base model prepared.

    python benchmarks/first_step.py                  SmolLM2 (`smollm2`) on the embedded example
    python benchmarks/first_step.py MODEL            another `model.name_or_path`

Everything before training is made first, in a temporary copy of the workflow. Then the learning rate changes, as at
each new try, and `train` runs until its first step. Seconds are of the clock; CPU-seconds are of all processes
together, so that they also tell on a busy machine. Target on 2 idle cores with SmolLM2: 20 seconds.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from workflow import SNAKEMAKE, copy

EVENTS = re.compile(r"^(?:(?:local)?rule (\w+):|Finished jobid: \d+ \(Rule: (\w+)\)|(step 1/\d+) )")
CONFIG = """
preset: smollm2
model: {{name_or_path: {model}}}
train: {{learning_rate: {rate}, per_device_train_batch_size: 1}}
runs: {{first: {{}}}}
"""
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Prepare, change the learning rate, run until the first step and print when what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2", help="as model.name_or_path")
    parser.add_argument("--cores", default="2")
    args = parser.parse_args()
    name = args.model if not Path(args.model).exists() else str(Path(args.model).resolve())
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        # Without --verbose the lines are those of the workflow's own logger.
        command = [SNAKEMAKE, "--cores", args.cores, "train", "--verbose"]
        write(Path(folder), name, 1e-3)
        prepare(command, Path(folder))
        write(Path(folder), name, 2e-3)
        events = list(until_first_step(command, Path(folder)))
    for what, wall, cpu in events:
        print(f"{wall:6.1f} s  {cpu:6.1f} CPU-s  {what}", file=sys.stderr)
    print(json.dumps({"seconds": events[-1][1], "cpu_seconds": events[-1][2], "events": events}, indent=2))


def write(folder: Path, model: str, rate: float) -> None:
    """Write the configuration."""
    (folder / "config" / "config.yaml").write_text(CONFIG.format(model=json.dumps(model), rate=rate))


def prepare(command: list[str], folder: Path) -> None:
    """Run until the first step once: everything before it is made then."""
    for _ in until_first_step(command, folder):
        pass


def until_first_step(command: list[str], folder: Path) -> Iterator[tuple[str, float, float]]:
    """Run a command until it prints its first step, and yield what happens with seconds and CPU-seconds from its start.

    Raises:
        SystemExit: with what it said last, if it ends before.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := EVENTS.match(line):
                started, ended, step = found.groups()
                what = f"{started} starts" if started else f"{ended} ends" if ended else step
                yield what, round(time.perf_counter() - began, 2), round(cpu_seconds(process.pid), 2)
                if step:
                    return
        raise SystemExit("The workflow ended before its first step:\n" + "".join(said[-20:]))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cpu_seconds(session: int) -> float:
    """Return the processor time of the processes of a session and of their children that have ended."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session:
            total += sum(map(int, fields[11:15]))
    return total / TICKS


if __name__ == "__main__":
    main()
