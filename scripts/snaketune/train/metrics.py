"""metrics.jsonl and the live line: what a run reports while it trains."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from transformers import TrainerCallback

from snaketune.common.atomic import write_bytes
from snaketune.common.errors import TrainingError

# Keys whose values differ between two runs that are otherwise equal.
VOLATILE_KEYS = ("tokens_per_second", "mfu")


@dataclass(slots=True)
class TokenCounter:
    """Real tokens (padding never counts) that training has seen, also before an interruption."""

    total: int = 0
    since_start: int = 0

    def add(self, tokens: int) -> None:
        """Count the tokens of one batch."""
        self.total += tokens
        self.since_start += tokens


@dataclass
class MetricsWriter(TrainerCallback):
    """Write one JSON line per log interval, flushed, and one line for people."""

    path: Path
    counter: TokenCounter
    _last_time: float = field(default_factory=time.monotonic)
    _last_tokens: int = 0
    _last_step: int = 0
    _last_evaluation: int = -1
    _seconds_per_step: float = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        """Forget lines that lie after the checkpoint that training resumes from."""
        lines = read_metrics(self.path) if self.path.exists() else []
        kept = [line for line in lines if line["step"] <= state.global_step]
        write_bytes(self.path, b"".join(orjson.dumps(line) + b"\n" for line in kept))
        self._last_time, self._last_tokens, self._last_step = time.monotonic(), self.counter.total, state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append the line of a finished interval.

        Raises:
            TrainingError: if the loss or the gradient is not finite; nothing is published then.
        """
        logs = logs or {}
        if "eval_loss" in logs and state.global_step > self._last_evaluation:
            self._last_evaluation = state.global_step  # the last step is evaluated twice by the Trainer
            self._append({"step": state.global_step, "eval_loss": logs["eval_loss"]})
        if "loss" not in logs:
            return
        line = self._line(logs, state.global_step)
        for name in ("loss", "grad_norm"):
            if line[name] is not None and not math.isfinite(line[name]):
                raise TrainingError(
                    f"step {state.global_step}: {name} is {line[name]} at learning rate {line['learning_rate']:.3g}:"
                    " lower train.learning_rate or look for broken records; the last good checkpoint is kept."
                )
        self._append(line)
        ends = time.time() + self._seconds_per_step * (state.max_steps - state.global_step)
        print(live_line(line, state.max_steps, ends), flush=True)

    def _line(self, logs: dict[str, Any], step: int) -> dict[str, Any]:
        now = time.monotonic()
        seconds = max(now - self._last_time, 1e-9)
        rate = (self.counter.total - self._last_tokens) / seconds
        self._seconds_per_step = seconds / max(step - self._last_step, 1)
        self._last_time, self._last_tokens, self._last_step = now, self.counter.total, step
        return {
            "step": step,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens": self.counter.total,
            "tokens_per_second": round(rate, 1),
            "mfu": None,
        }

    def _append(self, line: dict[str, Any]) -> None:
        with open(self.path, "ab") as file:
            file.write(orjson.dumps(line) + b"\n")


def live_line(line: dict[str, Any], max_steps: int, ends: float) -> str:
    """Return the line for people; ``ends`` is the expected end of training in seconds since the epoch."""
    return (
        f"step {line['step']}/{max_steps}  loss {line['loss']:.4f}  lr {line['learning_rate']:.2e}"
        f"  {line['tokens_per_second']:,.0f} tokens/s  ends {time.strftime('%a %H:%M:%S', time.localtime(ends))}"
    )


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; a half-written last line is left out."""
    lines = Path(path).read_bytes().split(b"\n")
    return [orjson.loads(line) for line in lines[:-1] if line]
