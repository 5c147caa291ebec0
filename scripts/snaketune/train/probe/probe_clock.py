"""The times of a probe: of its warm-up and of each repeat, with the device synchronised."""

import math
import time
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback

from snaketune.train.run import Run

if TYPE_CHECKING:  # TRL, which is imported for this method alone
    from snaketune.train.reinforcement.grpo_training import SampledTraining

MOST_STEPS = 1000
"""Of one repeat whose length is given in seconds."""


class ProbeClock(TrainerCallback):
    """Reads the clock after the warm-up and after every repeat, with the device synchronised.

    Args:
        run: the training that is measured; its counter has the tokens.
        steps, warmup_steps, repeats, repeat_seconds, max_seconds: as in :func:`probe`.

    Attributes:
        steps: of one repeat.
        marks: seconds and real tokens at the end of the warm-up and of each repeat.
    """

    def __init__(
        self,
        run: "Run | SampledTraining",
        steps: int,
        warmup_steps: int,
        repeats: int,
        repeat_seconds: float | None,
        max_seconds: float | None,
    ):
        self._counter, self.steps, self._warmup, self._repeats = run.trainer.counter, steps, warmup_steps, repeats
        self._length, self._most = repeat_seconds, max_seconds
        self._began = self._first = 0.0
        self.marks: list[tuple[float, int]] = []

    def on_train_begin(self, args, state, control, **kwargs):
        """Start."""
        self._began = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Record the end of the warm-up and of each repeat; stop after the last one or when time is up."""
        done = state.global_step - self._warmup
        if state.global_step == 1:
            self._first = _now()
        if done < 0 or done % self.steps:
            return
        self.marks.append((_now(), self._counter.total))
        if not done and self._length:
            self.steps = self._steps_for(self._length)
        is_late = self._most is not None and self.marks[-1][0] - self._began > self._most
        # Only at the end of a repeat, so that every rate covers the same number of steps.
        if done and (is_late or len(self.marks) > self._repeats):
            control.should_training_stop = control.should_save = True

    def _steps_for(self, seconds: float) -> int:
        """Return the number of steps that take ``seconds``, from the warm-up without its first step."""
        # The first step is left out: it compiles and allocates.
        each = max((self.marks[0][0] - self._first) / max(self._warmup - 1, 1), 1e-6)
        wanted, most = math.ceil(seconds / each / self.steps), max(MOST_STEPS // self.steps, 1)
        return min(max(wanted, 1), most) * self.steps

    @property
    def warmup_seconds(self) -> float:
        """Return the seconds of the steps before the first repeat."""
        return self.marks[0][0] - self._began

    def rates(self) -> tuple[float, ...]:
        """Return the tokens per second of each repeat."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return tuple((later[1] - former[1]) / (later[0] - former[0]) for former, later in pairs)


def _now() -> float:
    """Return the clock's seconds after synchronising the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()
