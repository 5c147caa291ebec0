"""One workflow with three trainings of SmolLM2-135M-Instruct, killed once on its way; each test looks at what it left.

Everything is float32 on one thread, with few, short records and a handful of steps.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))
import preloaded
from project import Project, kill_session

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.workflow.job_table import LOADER_KEYS
from snaketune.workflow.stages import slice_of

STEPS = 6
CONFIG = """
data: {{sources: [data/train.jsonl]}}
model: {{name_or_path: {model}}}
split: {{test_size: 0.15}}
tokens: {{max_length: 128}}
adapter: {{r: 8}}
train: {{max_steps: {steps}, per_device_train_batch_size: 2, gradient_accumulation_steps: 1, learning_rate: 1e-3,
        warmup_ratio: 0, logging_steps: 1, save_steps: 2, cpu_threads: 1}}
evaluate: {{max_samples: 2, max_new_tokens: 12, latency_requests: 0}}
runs:
  lora: {{}}
  # Without a warm-up the first of two steps moves something already.
  whole:
    adapter: {{type: none}}
    train: {{max_steps: 2, learning_rate: 5e-5, per_device_train_batch_size: 1}}
    merge: {{enabled: false}}
  # More rows at a time than the others: its memory is planned for them, too.
  pairs:
    data: {{sources: [data/pairs.jsonl]}}
    train: {{method: dpo, max_steps: 2, learning_rate: 5e-5, per_device_train_batch_size: 4}}
    merge: {{enabled: false}}
"""
COLOURS = [
    *("red", "green", "blue", "white", "black", "brown", "grey", "pink"),
    *("gold", "teal", "plum", "lime", "navy", "rose", "sand", "jade"),
]
SYSTEM = {"role": "system", "content": "Answer with a code."}


def code(colour: str) -> str:
    """The invented code that the model is to learn."""
    return f"{colour[::-1].upper()}-{len(colour)}"


def conversations() -> list[dict]:
    """Dialogues of one and of two answers, every third with a system turn of its own."""
    found = []
    for number, colour in enumerate(COLOURS):
        messages = [{"role": "user", "content": f"Which code has {colour}?"}, _answer(code(colour))]
        if number % 4 == 1:
            other = COLOURS[number - 1]
            messages += [{"role": "user", "content": f"  And {other},\nplease?"}, _answer(f"{code(other)} <b>now</b>")]
        found.append({"messages": ([SYSTEM] if number % 3 == 2 else []) + messages})
    return found


def pairs() -> list[dict]:
    """The same questions with a preferred and a rejected answer."""
    asked = [{"prompt": f"Which code has {colour}?", "chosen": code(colour)} for colour in COLOURS]
    return [{**pair, "rejected": f"I cannot say that of {pair['prompt'][15:-1]}."} for pair in asked]


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


class RealProject(Project):
    """A project with the three runs, and where its artefacts are."""

    def __init__(self, folder: Path, model: str):
        folder.mkdir()
        # A training that shared a process's imports would not have the memory that is planned.
        programs = preloaded.programs_but(folder.with_name("programs"), "train_model.py")
        super().__init__(folder, CONFIG.format(model=model, steps=STEPS), programs)
        _write_lines(self.raw, conversations())
        _write_lines(folder / "data" / "pairs.jsonl", pairs())

    def kill(self, begun: subprocess.Popen) -> None:
        """kill -9 a workflow that :meth:`start` began, with all of its jobs, which work in this folder."""
        kill_session(begun)
        while working := self._processes():
            for number in working:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.05)

    def _processes(self) -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):  # it has just ended, or is another person's
                if place.readlink() == self.folder.resolve():
                    found.append(int(place.parent.name))
        return found

    def latest(self, run: str = "lora") -> Path:
        return super().latest(run)

    def made(self, stage: str, run: str = "lora") -> Path:
        """The folder of a stage's result that a run was made from."""
        word = "pairs" if run == "pairs" else "train"
        (folder,) = (self.folder / "results" / "data" / stage).glob(f"{word}-*")
        return folder

    @property
    def model(self) -> Path:
        (folder,) = (self.folder / "results" / "models").glob("*/model")
        return folder

    def training(self, run: str) -> tuple[dict, dict]:
        """The configuration slice and the operational settings that the training of a run gets."""
        (resolved,) = (
            r for r in resolve_runs(Layer("c", yaml.safe_load(self.config.read_text())), {}, "nowhere") if r.name == run
        )
        train = resolved.config.train
        settings = {name: getattr(train, name) for name in LOADER_KEYS} | {"scratch": None, "num_nodes": 1}
        return slice_of(resolved.config, "train_model"), settings

    def facts(self, name: str, run: str = "lora"):
        return json.loads((self.latest(run) / name).read_text())

    def lines(self, name: str, run: str = "lora") -> list[dict]:
        return [json.loads(line) for line in (self.latest(run) / name).read_text().splitlines()]
