"""Fitting a run into memory: the least recomputation that fits, and the one setting to change if none does."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from snaketune.plan.memory.memory import MemoryPlan, memory_plan
from snaketune.plan.memory_settings import CHECKPOINT_LEVELS, MemorySetting

MARGIN = 0.10
"""The plan's error against published peaks is ±10%: a run counts as fitting only with this margin."""
SHORTEST = 128
"""Tokens; documents are never advised to be shorter."""
LAST_RESORT = "tokens.max_length"


@dataclass(frozen=True, slots=True)
class CheckpointChoice:
    """A checkpointing level for a budget."""

    checkpoint_every: int
    """One in this many layers is recomputed: 0 none, 1 all."""
    plan: MemoryPlan
    fits: bool
    """False if even full recomputation does not fit."""


@dataclass(frozen=True, slots=True)
class SmallerSetting:
    """One setting to change so that a run needs less memory."""

    key: str
    """The configuration key, with its section."""
    value: object
    setting: MemorySetting
    plan: MemoryPlan
    fits: bool
    """Whether this change is enough for the budget."""
    remark: str
    """What the change costs or requires, as a clause."""

    def sentence(self) -> str:
        """Return the advice as the end of an error message."""
        enough = "" if self.fits else "; that alone is not enough"
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"set {self.key} to {value} ({self.plan.total:.1f} GB {self.plan.origin}{enough}), {self.remark}"


def fits_budget(plan: MemoryPlan, budget_gb: float, margin: float = MARGIN) -> bool:
    """Tell whether the plan fits into ``budget_gb`` even if it underestimates by ``margin``."""
    return plan.total * (1 + margin) <= budget_gb


def choose_checkpointing(
    config: Any, setting: MemorySetting, budget_gb: float, margin: float = MARGIN
) -> CheckpointChoice:
    """Return the least recomputation with which the run fits, or full recomputation if nothing fits.

    Args:
        config: a ``PreTrainedConfig`` of transformers.
        setting: the run; its ``checkpoint_every`` is ignored.
        budget_gb: memory of the device, in GB (10⁹ bytes).
        margin: fraction by which the plan may underestimate.

    Raises:
        PlanError: if the architecture cannot be planned.
    """
    for every in CHECKPOINT_LEVELS:
        plan = memory_plan(config, replace(setting, checkpoint_every=every))
        if fits_budget(plan, budget_gb, margin):
            return CheckpointChoice(every, plan, True)
    return CheckpointChoice(every, plan, False)


def next_smaller_setting(
    config: Any, setting: MemorySetting, budget_gb: float, margin: float = MARGIN
) -> SmallerSetting | None:
    """Return the one setting to change so that the run fits; None if nothing is left to change.

    The order is that of what the changes cost: a smaller micro-batch (with more accumulation the training stays the
    same), recomputation (time), a chunked loss, a quantised base (time and a little quality), a smaller optimizer state
    if all weights are trained, activations in RAM (time), shorter documents (data). The first change that suffices
    alone is taken; if none does, the one that saves most, and shorter documents only if nothing else is left.

    Args:
        config: a ``PreTrainedConfig`` of transformers.
        setting: the run.
        budget_gb: memory of the device, in GB (10⁹ bytes).
        margin: fraction by which the plan may underestimate.

    Raises:
        PlanError: if the architecture cannot be planned.
    """
    smaller = []
    for key, value, changed, remark in _changes(setting):
        plan = memory_plan(config, changed)
        change = SmallerSetting(key, value, changed, plan, fits_budget(plan, budget_gb, margin), remark)
        # In order of cost, so the first that fits is the cheapest.
        if change.fits:
            return change
        smaller.append(change)
    now = memory_plan(config, setting).total
    saving = [change for change in smaller if change.plan.total < now]
    return min(saving, key=lambda change: (change.key == LAST_RESORT, change.plan.total), default=None)


Change = tuple[str, object, MemorySetting, str]


def _changes(setting: MemorySetting) -> Iterator[Change]:
    yield from _fewer_rows(setting)
    yield from _more_recomputation(setting)
    if not setting.chunked_loss:
        yield "train.chunked_loss", True, replace(setting, chunked_loss=True), "with an identical result"
    yield from _quantized(setting)
    yield from _elsewhere(setting)
    # Last, and by halves: shorter documents change the data and cannot be undone by accumulation.
    length = setting.row_length // 2
    while length >= SHORTEST:
        remark = "which shortens or drops the longest records"
        yield LAST_RESORT, length, replace(setting, row_length=length), remark
        length //= 2


def _fewer_rows(setting: MemorySetting) -> Iterator[Change]:
    rows = setting.micro_batch // 2
    while rows >= 1:
        # Rounded up: the effective batch never shrinks.
        factor = -(-setting.micro_batch // rows)
        remark = f"and multiply train.gradient_accumulation_steps by {factor} to train the same"
        if setting.steps_in_backward:
            remark = "which makes the batch smaller: optimizer_in_backward cannot accumulate"
        yield "train.per_device_train_batch_size", rows, replace(setting, micro_batch=rows), remark
        rows //= 2


def _more_recomputation(setting: MemorySetting) -> Iterator[Change]:
    levels = CHECKPOINT_LEVELS
    here = setting.checkpoint_every
    more = [every for every in levels if every and (not here or every < here)]
    remark = "which recomputes that share of the layers"
    for every in more:
        changed = replace(setting, checkpoint_every=every)
        if here:
            yield "train.checkpoint_every_n_layers", every, changed, remark
        else:
            again = f"with train.checkpoint_every_n_layers: {every}, which recomputes one layer in {every}"
            yield "train.gradient_checkpointing", True, changed, again


def _elsewhere(setting: MemorySetting) -> Iterator[Change]:
    """Yield the changes that move optimizer state and activations out of GPU memory."""
    if setting.device == "cpu" or setting.shards:
        return
    if setting.adapter is None and setting.optimizer.startswith("adamw_torch"):
        for name in ("adamw_8bit", "paged_adamw_8bit"):
            remark = "which rounds the optimizer's moments and needs bitsandbytes"
            yield "train.optim", name, replace(setting, optimizer=name), remark
    if not setting.offloads:
        remark = "which copies activations to RAM and back"
        yield "train.activation_offloading", True, replace(setting, offloads=True), remark


def _quantized(setting: MemorySetting) -> Iterator[Change]:
    # A quantised base cannot be trained itself, and bitsandbytes' kernels need a GPU.
    if setting.device == "cpu" or setting.adapter is None:
        return
    remark = "which trains slower and rounds the frozen base"
    smaller: dict[str, tuple[Literal["8bit", "4bit"], ...]] = {"none": ("8bit", "4bit"), "8bit": ("4bit",)}
    for name in smaller.get(setting.quantization, ()):
        yield "model.quantization", name, replace(setting, quantization=name), remark
