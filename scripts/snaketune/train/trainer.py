"""A thin subclass of Hugging Face's Trainer: packed rows, token-weighted held-out loss, exact checkpoints.

Three overrides remove host work that grows with the number of modules (measured: 25-32 ms per micro-step at 32
layers): counting parameters for FLOPs, walking all modules in ``train()`` and clipping over frozen parameters.

A resumed training gives the same weights as one without interruption. The Trainer's checkpoint restores weights,
optimizer, schedule, sampler position and random states (Python, NumPy, torch, each device). What it leaves out is added
here: the running loss of an unfinished log interval, the token counts, the best checkpoint and a postponed evaluation.

The module needs only torch, transformers and peft; sealing checkpoints and writing metrics are injected as hooks.
"""

import contextlib
import functools
import gc
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from snaketune.core.atomic import remove_tree
from snaketune.core.disk_space import explaining_full_disk, require_room
from snaketune.core.errors import ConfigError, DiskFullError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.batches import IGNORED, BatchLayout
from snaketune.train.checkpoints.best_checkpoint import BestCheckpoint, StoppedEarlyError
from snaketune.train.distributed.process_group import ProcessGroup, full_tensor, gather_state_dict
from snaketune.train.distributed.zero import exact, share_out
from snaketune.train.hooks import NO_HOOKS, Hooks
from snaketune.train.loading.adapting import load_weights
from snaketune.train.loading.unsupported_model import explaining_unfit_model
from snaketune.train.monitoring.step_timers import TimeSplit, TokenCounter
from snaketune.train.optimizers import StepsInBackward, forget_overrides, page_again
from snaketune.train.row_order import EvenSampler, RowCollator, RowIndices, end_loaders
from snaketune.train.safety import FP16_PATIENCE, FiniteGuard, require_finite_state, require_plain_names

PLAIN_LAYOUT = BatchLayout()


class PackedTrainer(Trainer):
    """Trainer over packed rows that resumes exactly at every step and stops at the first non-finite value.

    Attributes:
        counter: tokens seen so far.
        times: wall time by activity.
        guard: checks losses and gradient norms for non-finite values.
        evaluation_is_due: whether an evaluation was postponed because training was asked to stop.
        best: the best checkpoint so far.
    """

    _redirected: Path | None = None

    def __init__(
        self,
        *args,
        held_out: PackedRows,
        layout: BatchLayout,
        hooks: Hooks,
        steps_in_backward: bool = False,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self._wants_steps_in_backward = steps_in_backward
        self._steps: StepsInBackward | None = None
        self._held_out, self._layout, self._hooks = held_out, layout, hooks
        self.counter, self.times = TokenCounter(), TimeSplit()
        patience = FP16_PATIENCE if self.accelerator.scaler is not None else 0
        self.guard = FiniteGuard(patience, lambda: self.times.spending("device"))
        self.evaluation_is_due = False
        self.best = BestCheckpoint({})
        self._resumed: dict[str, Any] = {}
        adapted = self._model()
        if isinstance(adapted, PeftModel):
            # PEFT's card takes longer than the weights of a small adapter, and no checkpoint keeps it.
            adapted.create_or_update_model_card = _write_no_card  # type: ignore[method-assign]

    def train(self, *args, **kwargs):
        """Train with the objects that exist now, the model's, exempt from Python's garbage collection.

        They are returned to the collector however training ends: a failed training would otherwise keep its GPU memory.
        """
        # A full collection walks every object of torch and transformers, hundreds of thousands of them, in the middle
        # of a step. Frozen objects are left out; what training itself creates is still collected.
        gc.collect()
        gc.freeze()
        try:
            with self._process_group.attending():
                return super().train(*args, **kwargs)
        except StoppedEarlyError:
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
            return None
        finally:
            gc.unfreeze()
            end_loaders(self.accelerator._dataloaders)
            forget_overrides(getattr(self.optimizer, "optimizer", self.optimizer))

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """Create the optimizer and, with ``train.optimizer_in_backward``, its steps within the backward pass."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self._wants_steps_in_backward and self._steps is None:
            # The step would use the gradient of the first micro-batch alone.
            if self.args.gradient_accumulation_steps > 1:
                raise ConfigError(
                    "train.optimizer_in_backward: true makes every backward pass an optimizer step, but "
                    f"train.gradient_accumulation_steps is {self.args.gradient_accumulation_steps}: set the former to "
                    "false or the latter to 1."
                )
            self._steps = StepsInBackward(optimizer)
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint:
            page_again(getattr(self.optimizer, "optimizer", self.optimizer))

    def _prepare_for_training(self, *args, **kwargs):
        # The base model is loaded in evaluation mode while the adapter around it reports training mode: training_step
        # would take the whole for trained, and dropout and gradient checkpointing of the base would stay off.
        self._model().train()
        if is_deepspeed_zero3_enabled():
            share_out(self._model(), self.args)
        return super()._prepare_for_training(*args, **kwargs)

    def _get_train_sampler(self, train_dataset=None):
        # A single process takes the Trainer's own sampler, which pads nothing.
        if self._process_group.size == 1:
            return super()._get_train_sampler(train_dataset)
        turn = self._process_group.size * self.args.per_device_train_batch_size
        return EvenSampler(train_dataset or self.train_dataset, self.args.seed, turn)

    def floating_point_ops(self, inputs) -> int:
        """Return 0: FLOPs are computed from the documents instead of walking all parameters at every step."""
        return 0

    def get_batch_samples(self, *args, **kwargs):
        """Take the batches of an optimizer step and book the time spent waiting for them."""
        with self.times.spending("data"):
            return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model, inputs, *args, **kwargs):
        """Count the batch and run one forward and backward pass."""
        # The counts travel with the batch, since loader processes read ahead: what is counted is what was trained.
        facts = inputs.pop("facts")
        self._process_group.note()
        self.counter.add(facts)
        if model.training:
            # Trainer calls model.train() at every micro-step, which walks all modules: a no-op replaces it meanwhile.
            model.train = lambda mode=True: model
        try:
            with self._explaining_first_step():
                # The loss is a sum over tokens divided by the tokens of the whole optimizer step (num_items_in_batch),
                # so micro-batches of unequal length weigh as in one large batch.
                loss = super().training_step(model, inputs, *args, **kwargs)
        finally:
            model.__dict__.pop("train", None)
        self.guard.add_loss(loss, facts.rows)
        return loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        """Compute the loss without a KV cache: with one, transformers ignores the restarts of positions.

        Trainer disables ``use_cache`` in the top-level configuration only; the text model of a multimodal one has its
        own.
        """
        return super().compute_loss(model, {**inputs, "use_cache": False}, *args, **kwargs)

    def _explaining_first_step(self) -> contextlib.AbstractContextManager[None]:
        # A model that completed a step is supported: a later failure is a defect and keeps its traceback.
        is_main_process, config = self.state.global_step == 0, self._model().config
        return explaining_unfit_model(config.model_type) if is_main_process else contextlib.nullcontext()  # type: ignore

    @functools.cached_property
    def _trainable(self) -> list[torch.nn.Parameter]:
        """The trained parameters; known only once training has begun, because sharding replaces parameters."""
        return [parameter for parameter in self._model().parameters() if parameter.requires_grad]

    def _clip_grad_norm(self, model):
        if self.is_deepspeed_enabled:
            return super()._clip_grad_norm(model)
        # Scaled float16 gradients would be clipped at the wrong norm. Of sharded gradients the norm is a DTensor.
        self.accelerator.unscale_gradients()
        return full_tensor(torch.nn.utils.clip_grad_norm_(self._trainable, self.args.max_grad_norm))

    def _get_grad_norm(self, model, grad_norm=None):
        """Return the norm before clipping, once checked: this is the last call before the optimizer's step."""
        if self.is_deepspeed_enabled:
            grad_norm = super()._get_grad_norm(model, grad_norm)
        elif self._steps:
            grad_norm = self._steps.norm(self.args.device)
        elif grad_norm is None:
            self.accelerator.unscale_gradients()
            gradients = [parameter.grad for parameter in self._trainable if parameter.grad is not None]
            grad_norm = full_tensor(torch.nn.utils.get_total_norm(gradients))
        # A NaN in the gradient would be written into the weights and into both moments by the step that follows.
        self.guard.close_step(self.state.global_step + 1, self._optimizer().param_groups[0]["lr"], grad_norm)
        return grad_norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log only after the steps are known to be finite, with the counts summed over all processes."""
        self.guard.check_pending()
        self.counter.gather(self._process_group.sum)
        super().log(logs, start_time)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Return and log the held-out loss: the mean over all loss-bearing tokens, independent of batching.

        A training that is asked to stop saves first and evaluates after it is resumed.
        """
        self.guard.check_pending()
        with self.times.spending("evaluation"):
            metrics = self.held_out_measures()
        self.evaluation_is_due = not metrics
        if metrics:
            self.log(dict(metrics))
        else:
            self.control.should_save = self.control.should_training_stop = True
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def held_out_measures(self) -> dict[str, float]:
        """Return the metrics of the held-out rows; an empty dictionary if training was asked to stop meanwhile."""
        loss = self.held_out_loss()
        return {} if loss is None else {"eval_loss": loss}

    @torch.no_grad()
    def held_out_loss(self) -> float | None:
        """Return the mean negative log-likelihood per loss-bearing held-out token, in nats; None when interrupted."""
        model, collator = self._model().eval(), RowCollator(self._held_out, self._layout)
        total: Any = 0.0
        tokens = 0.0
        for indices, counts in self._own_batches():
            if self._is_interrupted():
                break
            self._process_group.note()
            batch = collator(indices)
            batch.pop("facts")
            count = int((batch["labels"][:, 1:] != IGNORED).sum())
            with self.compute_loss_context_manager():
                loss = model(**self._prepare_inputs(batch), use_cache=False).loss
            if count and counts:
                # The model returns a mean per batch; weighted by its tokens it sums to a mean over all tokens. In
                # float64 on the device, so that the host synchronises once, after the last batch.
                total = total + loss.double() * count
                tokens += count
        model.train()
        if self._is_interrupted():
            return None
        total, tokens = self._process_group.sum([float(total), tokens])
        return total / tokens

    def _prepare_input(self, data):
        """Return a tensor on the training device; the copy does not wait for work already queued there."""
        if not isinstance(data, torch.Tensor) or self.is_deepspeed_enabled or data.device == self.args.device:
            return super()._prepare_input(data)
        pins = self.args.dataloader_pin_memory and self.args.device.type == "cuda"
        return (data.pin_memory() if pins else data).to(self.args.device, non_blocking=True)

    def _own_batches(self) -> Iterator[tuple[list[int], bool]]:
        """Yield this process's held-out batches and whether each counts.

        All processes run equally many batches, because sharded forward passes are collective; surplus ones repeat
        the last batch and are not counted.
        """
        rows, size = len(self._held_out), self.args.per_device_eval_batch_size
        starts = list(range(0, rows, size))
        for turn in range(
            self._process_group.rank,
            -(-len(starts) // self._process_group.size) * self._process_group.size,
            self._process_group.size,
        ):
            start = starts[min(turn, len(starts) - 1)]
            yield list(range(start, min(start + size, rows))), turn < len(starts)

    @property
    def _process_group(self) -> ProcessGroup:
        return self._hooks.process_group

    def _is_interrupted(self) -> bool:
        """Tell whether to stop now; the last step is always evaluated, because no later run would do it."""
        return self._hooks.stop_requested() and self.state.global_step < self.state.max_steps

    def _model(self) -> torch.nn.Module:
        assert self.model is not None
        return self.model

    def _optimizer(self) -> torch.optim.Optimizer:
        assert self.optimizer is not None
        return self.optimizer

    def resume(self, facts: dict[str, Any]) -> None:
        """Restore counts, best checkpoint and a postponed evaluation from a checkpoint, before training begins."""
        self._resumed = facts
        self.counter.restore(facts)
        self.best.restore(facts)
        self.args.eval_on_start = facts["evaluation_is_due"]

    def restore_interval(self) -> None:
        """Restore the running loss of the log interval that the checkpoint was written in."""
        if self._resumed:
            self._tr_loss.fill_(self._resumed["interval_loss"][self._process_group.rank])
            self._total_loss_scalar = self._resumed["total_loss"]
            self._globalstep_last_logged = self._resumed["interval_start"]

    def _facts(self) -> dict[str, Any]:
        return {
            "step": self.state.global_step,
            "max_steps": self.state.max_steps,
            "interval_loss": self._process_group.all(float(self._tr_loss)),
            "interval_start": self._globalstep_last_logged,
            "total_loss": self._total_loss_scalar,
            "evaluation_is_due": self.evaluation_is_due,
            **self.best.facts(),
            **self.counter.facts(),
        }

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        """Load an adapter's weights in place, in the dtype that it trains in.

        PEFT's own loading replaces bfloat16 weights by new float32 parameters, which the optimizer does not hold.
        """
        adapted = self._model()
        if isinstance(adapted, PeftModel):
            load_weights(adapted, Path(resume_from_checkpoint) / SAFETENSORS_WEIGHTS_NAME)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _get_output_dir(self, trial) -> str:
        return str(self._redirected) if self._redirected else super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial) -> None:
        """Write the checkpoint to a partial folder, validate it and seal it: a crash never leaves half of one.

        Raises:
            TrainingError: if a weight or the optimizer's state is not finite.
        """
        self.guard.check_pending()
        require_finite_state(self.state.global_step, self._trainable, self._optimizer())
        with self.times.spending("checkpoint"):
            self._write_checkpoint(model, trial)
        if self._hooks.saved:
            self._hooks.saved(self.times.last["checkpoint"])

    def _write_checkpoint(self, model, trial) -> None:
        root, name = Path(str(self.args.output_dir)), f"checkpoint-{self.state.global_step}"
        partial = root / ".partial"
        self.counter.gather(self._process_group.sum)
        facts = self._facts()
        if self._process_group.is_main_process:
            remove_tree(partial)  # what a killed process left
            self.require_room(root)
        self._process_group.barrier()
        self._process_group.note()
        self._redirected = partial
        try:
            with explaining_full_disk(partial, self._checkpoint_bytes()):
                super()._save_checkpoint(model, trial)
                self._process_group.barrier()
                if self._process_group.is_main_process:
                    self._seal(partial / name, root / name, facts)
        except DiskFullError:
            shutil.rmtree(partial, ignore_errors=True)  # what is left would only keep the disk full
            raise
        finally:
            self._redirected = None
        self._process_group.barrier()

    def require_room(self, root: Path) -> None:
        """Refuse to write a checkpoint that does not fit the disk of ``root``.

        Raises:
            DiskFullError: naming the folder, the bytes needed and those free.
        """
        require_room(root, self._checkpoint_bytes(), "a checkpoint of this training")

    def _checkpoint_bytes(self) -> int:
        """Return the approximate size of a checkpoint: the trained weights and Adam's two moments of the same size."""
        # `_trainable` cannot be used here: it is not known before training has begun.
        trained = (parameter for parameter in self._model().parameters() if parameter.requires_grad)
        return 3 * sum(parameter.numel() * parameter.element_size() for parameter in trained)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained weights; sharded weights are gathered one tensor at a time.

        A fully trained sharded model is kept in checkpoints as the shards of all processes and gathered only at the
        last step.
        """
        if not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
        elif self._adapter_or_last():
            state = gather_state_dict(
                self._model(), self._process_group.is_main_process, exact if self.is_deepspeed_enabled else full_tensor
            )
            if self._process_group.is_main_process:
                self._save(output_dir, state_dict=state)

    def _adapter_or_last(self) -> bool:
        return isinstance(self._model(), PeftModel) or self.state.global_step == self.state.max_steps

    def _seal(self, partial: Path, target: Path, facts: dict[str, Any]) -> None:
        (partial / "training_args.bin").unlink(missing_ok=True)
        require_plain_names(partial)
        self._hooks.seal(partial, target, facts)


def _write_no_card(output_dir: str) -> None:
    """Replace PEFT's own method."""


class RestoreInterval(TrainerCallback):
    """Restores a resumed trainer's running loss of the log interval that its checkpoint was written in."""

    def __init__(self, trainer: PackedTrainer):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """Restore the running loss after the Trainer has set it to zero."""
        self._trainer.restore_interval()
        self._trainer.times.start()


def assemble(
    model: torch.nn.Module,
    arguments: TrainingArguments,
    rows: PackedRows,
    held_out: PackedRows | None = None,
    layout: BatchLayout = PLAIN_LAYOUT,
    hooks: Hooks = NO_HOOKS,
    callbacks: Iterable[TrainerCallback] = (),
    kind: type[PackedTrainer] = PackedTrainer,
    **settings: Any,
) -> PackedTrainer:
    """Return a trainer of ``model`` on packed ``rows``; nothing is trained, read or written yet.

    Args:
        model: the model with its adapter, on its device.
        arguments: of Hugging Face's Trainer, as made by :func:`snaketune.train.arguments.training_arguments`.
        rows: packed training rows.
        held_out: packed rows of the held-out loss; by default the training rows.
        layout: what batches hold.
        hooks: injected behaviour: sealing of checkpoints, stop requests, process group.
        callbacks: further callbacks, in this order.
        kind: class of the trainer.
        **settings: further arguments of that class.
    """
    held_out = rows if held_out is None else held_out
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=RowIndices(rows),
        eval_dataset=RowIndices(held_out),
        data_collator=RowCollator(rows, layout),
        held_out=held_out,
        layout=layout,
        hooks=hooks,
        **settings,
    )
    for name in ("PrinterCallback", "ProgressCallback"):
        for callback in [each for each in trainer.callback_handler.callbacks if type(each).__name__ == name]:
            trainer.remove_callback(callback)
    for callback in (RestoreInterval(trainer), *callbacks):
        trainer.add_callback(callback)
    return trainer
