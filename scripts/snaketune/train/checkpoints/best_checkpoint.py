"""Best checkpoint and early stopping, with Hugging Face's semantics and exact under resume.

The comparison, the patience and their order are those of ``Trainer._determine_best_metric`` and
``EarlyStoppingCallback`` of transformers 5: patience compares with the best value before this evaluation and requires
an improvement above the threshold; the best checkpoint takes any improvement.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from snaketune.core.errors import TrainingError
from snaketune.settings.train_section import TrainSection


@dataclass(slots=True)
class Best:
    """The best evaluation so far, and the state of early stopping.

    Attributes:
        metric: the best value.
        step: when it was measured; None before the first evaluation.
        misses: evaluations in a row that did not improve by more than the threshold.
        is_over: whether patience has ended the training.
    """

    metric: float | None = None
    step: int | None = None
    misses: int = 0
    is_over: bool = False


class BestCheckpoint(TrainerCallback):
    """Tracks a metric of the held-out rows: saves the best checkpoint, and stops a training that no longer improves.

    Args:
        train: the ``train`` section of the configuration.
    """

    def __init__(self, train: TrainSection):
        self.keeps_best: bool = train.get("load_best_model_at_end", False)
        self._patience: int | None = train.get("early_stopping_patience")
        self._threshold: float = train.get("early_stopping_threshold") or 0.0
        name = train.get("metric_for_best_model") or "loss"
        self._name = name if name.startswith("eval_") else f"eval_{name}"
        greater = train.get("greater_is_better")
        self._sign = 1 if (not name.endswith("loss") if greater is None else greater) else -1
        self.found = Best()

    @property
    def is_used(self) -> bool:
        """Whether the configuration requests a best checkpoint or early stopping."""
        return self.keeps_best or self._patience is not None

    def require_evaluations(self, rows: int) -> None:
        """Refuse to track evaluations without held-out rows.

        Raises:
            TrainingError: if there are none.
        """
        if self.is_used and not rows:
            raise TrainingError(
                "train.load_best_model_at_end or train.early_stopping_patience is set but no record is held out, so "
                "nothing can be evaluated: raise split.test_size, or unset the key."
            )

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint records, so that a resumed training continues from it."""
        found = self.found
        return {"best": [found.metric, found.step, found.misses, found.is_over]} if self.is_used else {}

    def ended_with(self, facts: dict[str, Any]) -> bool:
        """Tell whether a checkpoint was written by an early stop."""
        return self.is_used and facts["best"][3]

    def restore(self, facts: dict[str, Any]) -> None:
        """Restore the state that a checkpoint recorded."""
        if self.is_used:
            self.found = Best(*facts["best"])

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Compare an evaluation with the best; a postponed one has no metrics and is repeated after resuming."""
        if not self.is_used or not metrics:
            return
        # Patience before the best value is replaced: it compares with the best of the evaluations before this one.
        self._count(metrics[self._name])
        if self._is_better(metrics[self._name], 0.0):
            self.found.metric, self.found.step = metrics[self._name], state.global_step
            # The weights of this step exist only now; without the checkpoint the best model could not be restored
            # later.
            control.should_save |= self.keeps_best
        if self._patience is not None and self.found.misses >= self._patience:
            self.found.is_over = control.should_save = control.should_training_stop = True

    def on_step_begin(self, args, state, control, **kwargs):
        """End a training that was resumed only to run a postponed evaluation, which exhausted its patience.

        Raises:
            StoppedEarlyError: which the trainer handles as a regular end.
        """
        if self.found.is_over:
            raise StoppedEarlyError

    def _count(self, value: float) -> None:
        self.found.misses = 0 if self._is_better(value, self._threshold) else self.found.misses + 1

    def _is_better(self, value: float, threshold: float) -> bool:
        best = self.found.metric
        return best is None or (value - best) * self._sign > threshold

    def kept_step(self) -> int | None:
        """Return the step whose checkpoint must not be removed, if any."""
        return self.found.step if self.keeps_best else None

    def chosen(self, work: Path, step: int) -> Path:
        """Return the checkpoint that a training which ended at ``step`` results in.

        Raises:
            TrainingError: if the best one is gone.
        """
        best = self.kept_step()
        if best is None:
            return work / f"checkpoint-{step}"
        # Imported here because trainings without checkpoints, as in `make gpu-check`, may lack its packages.
        from snaketune.train.checkpoints.checkpoints import is_sealed

        if not is_sealed(work, best):
            raise TrainingError(
                f"{work}/checkpoint-{best}, the best checkpoint of this training, is missing: remove {work} and train "
                "again."
            )
        return work / f"checkpoint-{best}"

    def result(self, steps: int) -> dict[str, Any]:
        """Return the manifest entry of a training of ``steps`` steps; empty if neither feature is used."""
        if not self.is_used:
            return {}
        found = self.found
        return {
            "best": {
                "metric": self._name,
                "value": found.metric,
                "step": found.step,
                "kept_step": found.step if self.keeps_best else steps,
                "stopped_early": found.is_over,
            }
        }


class StoppedEarlyError(Exception):
    """Early stopping has ended the training before its next step."""
