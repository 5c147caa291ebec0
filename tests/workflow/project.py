"""A copy of the workflow with a tiny configuration, and what its runs did."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import preloaded
import psutil

ROOT = Path(__file__).parents[2]
# A session of these can be killed: all that they start is in it.
REAL_PROGRAMS = Path(sys.executable).parent
PARTS = ("Snakefile", "rules", "scripts", "config", "profiles", "envs", "docs")
VOLATILE_FILES = {"run_info.json", "evaluation_info.json", "plan.json", "history.json", ".made.json"}
MEASURED = re.compile(rb"<!-- measured:.*?<!-- end of measured -->", re.DOTALL)
TIMES = ("data_seconds", "compute_seconds", "evaluation_seconds", "checkpoint_seconds")
VOLATILE_KEYS = {"tokens_per_second", "mfu", "memory_gb", "gpu_utilization", *TIMES}

CONFIG = """
data:
  sources: [data/train.jsonl]
model:
  name_or_path: tiny
  tiny: {corpus: quickstart, vocab_size: 400, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1,
         num_attention_heads: 2, max_position_embeddings: 256, pretrain_steps: 0}
split: {test_size: 0.01}
tokens: {max_length: 256, max_dropped_fraction: 0.99}
adapter: {r: 4}
train: {max_steps: 8, per_device_train_batch_size: 2, gradient_accumulation_steps: 1, learning_rate: 1e-3,
        logging_steps: 2, save_steps: 2, cpu_threads: 1}
evaluate: {max_samples: 4, max_new_tokens: 4}
runs: {one: {}}
"""


def record(number: int) -> str:
    """A line whose answer has about 400 characters, so that 3,000 lines are more than 1 MB."""
    answer = f"The number {number} follows {number - 1}. " * 10
    return json.dumps({"prompt": f"What follows {number - 1}, and why is it so?", "completion": answer})


class Project:
    """A working copy in which real Snakemake runs.

    Args:
        folder: where, which is empty.
        config: the content of config/config.yaml.
        programs: the folder of `snakemake` and `python`; those that start with their packages imported by default.
    """

    def __init__(self, folder: Path, config: str = CONFIG, programs: Path | None = None):
        self.folder, self.programs = folder, programs or preloaded.programs()
        for part in PARTS:
            source, target = ROOT / part, folder / part
            if source.is_dir():
                shutil.copytree(source, target)  # with what is compiled
            else:
                shutil.copy2(source, target)
        (folder / "data").mkdir()
        self.raw = folder / "data" / "train.jsonl"
        self.config = folder / "config" / "config.yaml"
        self.config.write_text(config)

    def command(self, *arguments: str, programs: Path | None = None) -> list[str]:
        return [str((programs or self.programs) / "snakemake"), "--cores", "2", *(arguments or ("train",))]

    def run(self, *arguments: str, expect: int = 0) -> set[str]:
        """Run Snakemake and return the rules of the jobs that finished, which its own log names, not the terminal."""
        before = set(self.folder.glob(".snakemake/log/*.log"))
        result = subprocess.run(self.command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=1800)
        logs = sorted(set(self.folder.glob(".snakemake/log/*.log")) - before)
        self.screen = result.stdout + result.stderr
        self.output = "\n".join([self.screen, *(log.read_text() for log in logs)])
        assert (result.returncode == 0) == (expect == 0), self.output[-6000:]
        return jobs(self.output)

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in a file of the copy."""
        path = self.folder / name
        text = path.read_text()
        assert old in text, (name, old)
        path.write_text(text.replace(old, new))

    def start(self, programs: Path | None = REAL_PROGRAMS) -> subprocess.Popen:
        """Start `train` in a session of its own, so that all of it can be killed; None means the project's programs."""
        return subprocess.Popen(
            self.command(programs=programs),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_for_step(self, step: int, seconds: float = 120, process: subprocess.Popen | None = None) -> None:
        """Wait until the trainer has written its metrics of ``step``, as long as ``process`` runs."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for path in self.folder.glob("work/runs/*/metrics.jsonl"):
                if f'"step":{step},' in path.read_text():
                    return
            assert process is None or process.poll() is None, f"the workflow ended before step {step}"
            time.sleep(0.05)
        raise TimeoutError(f"no step {step} after {seconds} s")

    def latest(self, run: str = "one") -> Path:
        return self.folder / "results" / "runs" / run / "latest"

    def adapter(self, run: str = "one") -> str:
        """The digest of the adapter's weights."""
        manifest = json.loads((self.latest(run) / "adapter.manifest.json").read_text())
        return manifest["files"]["adapter/adapter_model.safetensors"]["digest"]


def jobs(output: str) -> set[str]:
    """The rules of the jobs that finished, without the target rules."""
    finished = set(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", output))
    return finished - {"train", "data", "plan"}


def kill_all_in(folder: Path) -> None:
    """kill -9 every process that works in a folder, at one instant as far as a program can.

    This also ends programs that start with their packages imported, whose processes are in no session of their own.
    """
    while found := processes_in(folder):
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.05)


def processes_in(folder: Path) -> list[psutil.Process]:
    """The processes that work in a folder."""
    return [process for process in psutil.process_iter() if _works_in(process, folder)]


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(folder)
    except psutil.Error:
        return False


def kill_session(process: subprocess.Popen) -> None:
    """kill -9 Snakemake and everything it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def stable_content(results: Path) -> dict[str, bytes]:
    """Every file under ``results`` without what is volatile by contract."""
    content = {}
    for path in sorted(p for p in results.rglob("*") if p.is_file() and p.name not in VOLATILE_FILES):
        name = str(path.relative_to(results))
        content[name] = path.read_bytes()
        if path.name == "report.html":
            content[name], blocks = MEASURED.subn(b"", content[name])
            assert blocks > 1
        if path.name == "facts.json":
            rows = [row for row in json.loads(content[name]) if not row["volatile"]]
            assert rows
            content[name] = json.dumps(rows).encode()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in content[name].splitlines()]
            stable = [{key: value for key, value in line.items() if key not in VOLATILE_KEYS} for line in lines]
            content[name] = json.dumps(stable).encode()
    return content
