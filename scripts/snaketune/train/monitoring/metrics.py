"""metrics.jsonl and the live line: the metrics that a run reports while it trains."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from transformers import TrainerCallback

from snaketune.core.atomic import write_bytes
from snaketune.train.monitoring.sinks import Sink
from snaketune.train.monitoring.step_timers import TimeSplit, TokenCounter, data_hint, gpu_utilization, peak_gigabytes
from snaketune.train.safety import LossWatch

TIMES = ("data", "compute", "evaluation", "checkpoint")
# Keys whose values differ between otherwise identical runs.
VOLATILE_METRICS = (
    "tokens_per_second",
    "mfu",
    "memory_gb",
    "gpu_utilization",
    *(f"{name}_seconds" for name in TIMES),
)
# Logged by the Trainer but not a measurement.
NO_MEASUREMENTS = ("epoch",)
# Minimum time between two live lines, apart from the first and the last: metrics.jsonl has all of them.
LINE_SECONDS = 30.0

Mfu = Callable[[int, int, float], float | None]


def unknown_mfu(tokens: int, squares: int, seconds: float) -> None:
    """Return None: the peak of this device is unknown."""
    return None


class MetricsWriter(TrainerCallback):
    """Writes one JSON line per log interval, flushed, and prints the live line.

    Throughput covers training itself; the time of evaluations and checkpoints is reported separately.

    Args:
        path: the metrics file.
        counter, times: the trainer's token counts and times.
        watch: is given every loss; stops a training that diverges.
        mfu: computes MFU from real tokens, squared document lengths and seconds; None if the peak is unknown.
        sinks: further receivers of the lines.
    """

    def __init__(
        self,
        path: Path,
        counter: TokenCounter,
        times: TimeSplit,
        watch: LossWatch,
        mfu: Mfu = unknown_mfu,
        sinks: Sequence[Sink] = (),
    ):
        self.path, self._counter, self._times, self._watch = path, counter, times, watch
        self._mfu, self._sinks = mfu, sinks
        self._last_tokens = self._last_squares = 0
        self._has_hinted = False
        self._next_line = 0.0
        self._began, self._first_step = time.monotonic(), 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Discard lines of steps after the checkpoint that training resumes from: they are computed again."""
        lines = read_metrics(self.path) if self.path.exists() else []
        kept = [line for line in lines if line["step"] <= state.global_step]
        write_bytes(self.path, b"".join(orjson.dumps(line) + b"\n" for line in kept))
        self._watch.restore((line["step"], line["loss"]) for line in kept if "loss" in line)
        self._last_tokens, self._last_squares = self._counter.total, self._counter.squares
        self._began, self._first_step = time.monotonic(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append the line of a finished interval or of an evaluation.

        Raises:
            TrainingError: if the loss diverges.
        """
        measured = {name: value for name, value in (logs or {}).items() if name not in NO_MEASUREMENTS}
        if "eval_loss" in measured:
            self._append({"step": state.global_step, **measured})
        elif "loss" in measured:
            spent = self._times.take()
            line = {"step": state.global_step, **measured, **self._performance(spent)}
            self._append(line)
            self._show(line, state)
            self._explain_slowness(spent)
            self._watch.see(line["step"], line["loss"])

    def on_train_end(self, args, state, control, **kwargs):
        """Close the sinks."""
        for sink in self._sinks:
            sink.close()

    def _performance(self, spent: dict[str, float]) -> dict[str, Any]:
        tokens, squares = self._counter.total - self._last_tokens, self._counter.squares - self._last_squares
        self._last_tokens, self._last_squares = self._counter.total, self._counter.squares
        seconds = max(spent["data"] + spent["compute"], 1e-9)
        return {
            "tokens": self._counter.total,
            "trained_tokens": self._counter.trained,
            "tokens_per_second": round(tokens / seconds, 1),
            "mfu": self._mfu(tokens, squares, seconds),
            "memory_gb": peak_gigabytes(),
            "gpu_utilization": gpu_utilization(),
            **{f"{name}_seconds": round(spent[name], 4) for name in TIMES},
        }

    def _show(self, line: dict[str, Any], state) -> None:
        now, is_last = time.monotonic(), state.global_step >= state.max_steps
        if is_last or now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            print(live_line(line, state.max_steps, self._end(state)), flush=True)

    def _end(self, state) -> float:
        """Return the expected end of training, from the mean time of this process's steps, in seconds since 1970."""
        done = max(state.global_step - self._first_step, 1)
        return time.time() + (time.monotonic() - self._began) / done * (state.max_steps - state.global_step)

    def _explain_slowness(self, spent: dict[str, float]) -> None:
        hint = None if self._has_hinted else data_hint(spent)
        if hint:
            self._has_hinted = True
            print(hint, flush=True)

    def _append(self, line: dict[str, Any]) -> None:
        with open(self.path, "ab") as file:
            file.write(orjson.dumps(line) + b"\n")
        for sink in self._sinks:
            sink.write(line)


def live_line(line: dict[str, Any], max_steps: int, ends: float) -> str:
    """Return the live line; ``ends`` is the expected end of training in seconds since 1970."""
    mfu = f"  MFU {line['mfu']:.0%}" if line["mfu"] else ""
    return (
        f"step {line['step']}/{max_steps}  loss {line['loss']:.4f}  lr {line['learning_rate']:.2e}"
        f"  {line['tokens_per_second']:,.0f} tokens/s{mfu}"
        f"  ends {time.strftime('%a %H:%M:%S', time.localtime(ends))}"
    )


def sync_metrics(path: Path) -> None:
    """Flush the metrics file to disk: resuming from a checkpoint needs the lines before it, even after a power cut."""
    if path.exists():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; a half-written last line is left out."""
    lines = Path(path).read_bytes().split(b"\n")
    return [orjson.loads(line) for line in lines[:-1] if line]
