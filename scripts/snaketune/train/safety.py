"""Checks of rows before the first step, and of losses, gradients and weights that stop a failing training at once."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from snaketune.core.errors import DataError, TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.settings.train_section import TrainSection
from snaketune.train.optimizers import state_tensors

ROWS_AT_ONCE = 1024

# A float16 loss scale starts at 2**16 and halves at each overflow, so it falls below 2**-8 within 25 skipped steps:
# more overflows in a row are not caused by the scale.
FP16_PATIENCE = 25
SHOWN_ROWS = 8
# Prefix that torch.compile adds to the name of every weight in a module that it wraps.
COMPILED = "_orig_mod."


@dataclass(frozen=True, slots=True)
class StepFacts:
    """The facts of a step for error messages: number, learning rate and its row numbers in the packed file."""

    step: int
    learning_rate: float
    rows: tuple[int, ...]


# Starts a copy; returns the tensor it arrives in, and a function that waits until it has.
Send = Callable[[torch.Tensor], tuple[torch.Tensor, Callable[[], None]]]


def send_to_host(values: torch.Tensor) -> tuple[torch.Tensor, Callable[[], None]]:
    """Start copying ``values`` from a GPU into page-locked memory, after the work already queued."""
    arrived = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    arrived.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return arrived, event.synchronize


class FiniteGuard:
    """Checks the loss and the gradient norm of every step without making the host wait for a GPU.

    On a GPU both values are copied to page-locked memory asynchronously and checked one step later, when they have
    arrived. On a CPU they are checked at once, before the optimizer uses them.

    Args:
        patience: consecutive steps whose gradient may overflow (a float16 scaler skips them); 0 allows none.
        waiting: returns a context manager that surrounds each wait for the device.
        send: starts the copy to the host; chosen by the device of the loss by default.
    """

    def __init__(
        self,
        patience: int = 0,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
        send: Send | None = None,
    ):
        self._patience, self._waiting, self._send = patience, waiting, send
        self._loss: torch.Tensor | None = None
        self._rows: list[int] = []
        self._overflows = 0
        self._pending: tuple[StepFacts, torch.Tensor, Callable[[], None]] | None = None

    def add_loss(self, loss: torch.Tensor, rows: Iterable[int]) -> None:
        """Add the loss of one forward pass; a sum over a step with a non-finite loss is not finite."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
        self._rows.extend(rows)

    def close_step(self, step: int, learning_rate: float, grad_norm: torch.Tensor | float) -> None:
        """Check the step whose losses were added, given its gradient norm; on a GPU, check the step before it.

        Raises:
            TrainingError: naming the step, its learning rate and its rows.
        """
        assert self._loss is not None, "a step without a forward pass"
        facts = StepFacts(step, learning_rate, tuple(self._rows))
        # One tensor, so that both values take a single copy.
        values = torch.stack([self._loss.float(), torch.as_tensor(grad_norm, device=self._loss.device).float()])
        self._loss, self._rows = None, []
        self.check_pending()
        send = self._send or (send_to_host if values.is_cuda else None)
        if send:
            self._pending = (facts, *send(values))
        else:
            self._judge(facts, values)

    def check_pending(self) -> None:
        """Check the step whose values are still being copied; call it before anything is saved, logged or published.

        Raises:
            TrainingError: as :meth:`close_step`.
        """
        if self._pending:
            facts, arrived, wait = self._pending
            self._pending = None
            with self._waiting():
                wait()
            self._judge(facts, arrived)

    def _judge(self, facts: StepFacts, values: torch.Tensor) -> None:
        loss, grad_norm = values.tolist()
        # Only overflows in a row count: with float16 single ones are how the scaler finds its scale.
        self._overflows = 0 if math.isfinite(grad_norm) else self._overflows + 1
        if not math.isfinite(loss):
            raise TrainingError(_not_finite(facts, "loss", loss))
        if self._overflows > self._patience:
            raise TrainingError(_not_finite(facts, "gradient norm", grad_norm))


def _not_finite(facts: StepFacts, name: str, value: float) -> str:
    return (
        f"step {facts.step}: the {name} is {value} at learning rate {facts.learning_rate:.3g} in"
        f" {_name_rows(facts.rows)} of train.arrow: lower train.learning_rate or check the records of these rows; "
        "nothing is published, and checkpoints from before this step are kept."
    )


def _name_rows(rows: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, rows[:SHOWN_ROWS]))
    rest = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    return f"row {shown}" if len(rows) == 1 else f"rows {shown}{rest}"


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's shard of a sharded tensor, else the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def require_finite_state(step: int, parameters: Iterable[torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Check everything that the checkpoint of ``step`` would hold.

    Raises:
        TrainingError: if a trained weight or a number of the optimizer's state is not finite.
    """
    for name, tensors in (("a trained weight", parameters), ("the optimizer's state", state_tensors(optimizer))):
        numbers = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
        # One flag per tensor on the device and a single copy of all of them, instead of a synchronisation per tensor.
        verdicts = [torch.isfinite(own_part(tensor)).all() for tensor in numbers]
        if verdicts and not all(torch.stack([verdict.cpu() for verdict in verdicts]).tolist()):
            raise TrainingError(
                f"step {step}: {name} is not finite, so no checkpoint is written: lower train.learning_rate; "
                "checkpoints from before this step are kept."
            )


def require_plain_names(checkpoint: Path) -> None:
    """Check that no weight is stored under its name in a compiled model, from which others would load zeros.

    Raises:
        TrainingError: naming the weight.
    """
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            wrong = next((name for name in weights.keys() if COMPILED in name), None)  # noqa: SIM118
        if wrong:
            raise TrainingError(
                f"{file}: {wrong} is a weight name of a compiled model, which other code would load as zeros: set "
                "train.torch_compile to false and report this."
            )


class LossWatch:
    """Stops a training whose loss has risen far above its best value.

    Args:
        limit: nats by which the mean of the last log lines may exceed the best such mean; None never stops.
    """

    WINDOW = 5

    def __init__(self, limit: float | None):
        self._limit = limit
        self._losses: deque[float] = deque(maxlen=self.WINDOW)
        self._best, self._best_step = math.inf, 0

    def restore(self, lines: Iterable[tuple[int, float]]) -> None:
        """Add (step, loss) of the log lines from before an interruption, without checking them."""
        # Not checked: the limit may have been raised in order to continue.
        for step, loss in lines:
            self._note(step, loss)

    def see(self, step: int, loss: float) -> None:
        """Add the loss of a log line.

        Raises:
            TrainingError: if the loss diverges.
        """
        mean = self._note(step, loss)
        if self._limit is not None and mean is not None and mean > self._best + self._limit:
            raise TrainingError(
                f"step {step}: the loss diverges, the mean of the last {self.WINDOW} log lines ({mean:.3f}) is"
                f" {mean - self._best:.2f} nats above the best one ({self._best:.3f} at step {self._best_step}) and"
                f" train.max_loss_increase allows {self._limit:g}: lower train.learning_rate, or raise the limit and "
                "run the same command to continue."
            )

    def _note(self, step: int, loss: float) -> float | None:
        self._losses.append(loss)
        if len(self._losses) < self.WINDOW:
            return None
        # A mean over several lines: single batches scatter by more than the limit on small micro-batches.
        mean = sum(self._losses) / self.WINDOW
        if mean < self._best:
            self._best, self._best_step = mean, step
        return mean


def check_rows(model: PreTrainedModel | PeftModel, rows: PackedRows, held_out: PackedRows) -> None:
    """Check that there are rows to train on and that every token id is in the model's vocabulary.

    Raises:
        DataError: if there are no rows, or a row holds a token id that the model has no embedding for.
    """
    if not len(rows):
        raise DataError(
            "train.arrow holds no rows: no record is left to train on; check the counts of each data stage."
        )
    embedding: Any = model.get_input_embeddings()
    # With trained token embeddings it is wrapped, and reading the wrapper's weight would assemble the whole matrix.
    known = getattr(embedding, "original_module", embedding).weight.shape[0]
    for name, split in (("train.arrow", rows), ("eval.arrow", held_out)):
        for start in range(0, len(split), ROWS_AT_ONCE):
            block = split.take("input_ids", range(start, min(start + ROWS_AT_ONCE, len(split))))
            if block.max() >= known or block.min() < 0:
                wrong = next(row for row, ids in enumerate(block) if ids.max() >= known or ids.min() < 0)
                token = max(block[wrong].max(), -block[wrong].min())
                raise DataError(
                    f"{name}, row {start + wrong}: token id {token} is not in the model's vocabulary of {known}: the"
                    " tokenizer does not belong to this model; check model.name_or_path and added tokens."
                )


def describe_batches(rows: int, train: TrainSection) -> str | None:
    """Return a note if an optimizer step takes more rows than there are, else None."""
    wanted = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    if rows >= wanted:
        return None
    return (
        f"An optimizer step takes {wanted} rows (train.per_device_train_batch_size"
        f" {train['per_device_train_batch_size']} x train.gradient_accumulation_steps"
        f" {train['gradient_accumulation_steps']}) and there are {rows}: each step trains on all of them once; lower "
        "either for more steps."
    )
