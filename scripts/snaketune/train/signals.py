"""Stop requests: the current step is finished, a checkpoint is written, and the same command resumes."""

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import IO, Any

from transformers import TrainerCallback

from snaketune.core import cli
from snaketune.core.errors import TrainingError
from snaketune.train.distributed.process_group import ALONE, ProcessGroup
from snaketune.train.distributed.requeue import OutOfTime

# Spot machines, schedulers and `kill` send SIGTERM, Slurm's --signal mostly SIGUSR1, a terminal SIGINT for Ctrl-C and
# SIGHUP when it closes.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
OUT_OF_TIME = "SIGUSR1 received"
CHECKPOINT_SECONDS = 60.0


class StopRequest(TrainerCallback):
    """While entered, a signal or the end of the workflow makes training save and end after the current step.

    Args:
        process_group: the processes that train together.

    Attributes:
        reason: what requested the stop, or None.
    """

    def __init__(self, process_group: ProcessGroup = ALONE) -> None:
        self.reason: str | None = None
        self._process_group = process_group
        self._first_step = 0
        self._left = threading.Event()
        self._before: dict[signal.Signals, Any] = {}
        self._streams: tuple[Any, Any] | None = None

    def __bool__(self) -> bool:
        """Tell whether training is to end."""
        return self.reason is not None

    def agreed(self) -> bool:
        """Tell whether training is to end; a collective operation, so that all processes stop at the same step."""
        if not self._process_group.any(bool(self)):
            return False
        self.reason = self.reason or "another process of the training was stopped"
        return True

    def __enter__(self) -> "StopRequest":
        """Listen to signals (in the main thread, where Python allows it) and to the end of the workflow."""
        if threading.current_thread() is threading.main_thread():
            # Ignored signals stay ignored: SIGHUP under nohup, SIGINT below a launcher that passes signals on.
            listened = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in listened}
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Unbreakable(sys.stdout), _Unbreakable(sys.stderr)
        cli.on_orphaned = self._outlive_workflow
        return self

    def __exit__(self, *exception: object) -> None:
        """Restore handlers and streams."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._streams:
            sys.stdout, sys.stderr = self._streams
        cli.on_orphaned = None
        self._left.set()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait for the checkpoint
        self.reason = self.reason or f"{signal.Signals(number).name} received"

    def _outlive_workflow(self) -> None:
        """Give training time to save, as long as schedulers usually allow a job to end."""
        self.reason = self.reason or "the workflow that started this job is gone"
        self._left.wait(CHECKPOINT_SECONDS)

    def on_train_begin(self, args, state, control, **kwargs):
        """Record the first step of this process."""
        self._first_step = state.global_step

    def on_step_begin(self, args, state, control, **kwargs):
        """End at once if no step was completed yet."""
        if self and state.global_step == self._first_step:
            raise TrainingError(
                f"{self.reason} before the first training step: run the same command to continue from step"
                f" {self._first_step}."
            )

    def on_step_end(self, args, state, control, **kwargs):
        """Request a checkpoint and the end of training."""
        if self.agreed():
            control.should_save = control.should_training_stop = True

    def explain(self, step: int, max_steps: int, work: Path) -> TrainingError:
        """Return the message of a training that was asked to stop at ``step``."""
        kind = OutOfTime if self.reason == OUT_OF_TIME else TrainingError
        return kind(
            f"{self.reason}: step {step} of {max_steps} is saved in {work / f'checkpoint-{step}'}, nothing is "
            "published yet; run the same command to resume from there."
        )


class _Unbreakable:
    """A stream that survives its reader: a signal to the whole job also ends the ``tee`` that writes its log."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
