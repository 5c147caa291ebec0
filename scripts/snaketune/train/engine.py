"""Performance decisions made once before the first step: attention, loss, checkpointing, compilation, batch layout.

Every decision follows from configuration, data and machine, never from a measured time, so that a resumed run decides
as the first one did.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from snaketune.core.errors import ConfigError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.settings.adapter_section import AdapterSection
from snaketune.settings.train_section import TrainSection
from snaketune.settings.training_slices import PaddedTrain, TrainingSlice
from snaketune.train.batches import BatchLayout, document_shape
from snaketune.train.device import Device, is_sharded, mixed_dtype, mixed_precision
from snaketune.train.kernels.activations import checkpoint_interval
from snaketune.train.kernels.attention import VARLEN, check_isolation, is_isolated, needs_boundaries, select_attention
from snaketune.train.kernels.chunked_cross_entropy import chunked_loss_obstacle, put_chunked_loss
from snaketune.train.kernels.compiling import CompilationWatch, compile_layers, wants_compiling
from snaketune.train.kernels.fused_layers import fuse_layers
from snaketune.train.kernels.liger import use_liger
from snaketune.train.kernels.offloading import offload_activations
from snaketune.train.kernels.prefix_sharing import can_share_prefixes
from snaketune.train.loading.loading import proxy_model_of
from snaketune.train.loading.unsupported_model import explaining_unfit_model


@dataclass(frozen=True, slots=True)
class TrainingChoices:
    """The decisions taken.

    Attributes:
        attention: name of the kernel in transformers.
        chunked_loss: whether the loss is computed in chunks.
        checkpoint_every: one in this many layers is recomputed; 0 recomputes none.
        compiled_layers: number of layers compiled at the first step.
        layout: what batches hold.
        notes: sentences on requested features that are not used, and why.
        watch: counts recompilations; None when nothing is compiled.
        liger_layers: number of modules that use kernels of liger-kernel.
    """

    attention: str
    chunked_loss: bool
    checkpoint_every: int
    compiled_layers: int
    layout: BatchLayout
    notes: tuple[str, ...]
    watch: CompilationWatch | None
    liger_layers: int = 0

    @property
    def callbacks(self) -> tuple[CompilationWatch, ...]:
        """Return the callbacks to add to the trainer."""
        return (self.watch,) if self.watch else ()

    def facts(self) -> dict[str, Any]:
        """Return the decisions for a record of the run."""
        names = ("attention", "chunked_loss", "checkpoint_every", "compiled_layers", "liger_layers", "notes")
        return {name: getattr(self, name) for name in names} | {
            "computes_padding": not self.layout.dense,
            "shares_prefixes": self.layout.shares_prefixes,
            "compiled_again": self.watch.later if self.watch else 0,
        }


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """Expectations about a run: whether it is long enough to compile for, and what fits in memory.

    Attributes:
        is_long: whether compilation pays off.
        least_checkpointing: at least one in this many layers has to be checkpointed; 0 requires none.
    """

    is_long: Callable[[], bool] = lambda: False
    least_checkpointing: Callable[[], int] = lambda: 0


def prepare_engine(
    model: Any, splits: tuple[PackedRows, PackedRows], cfg: TrainingSlice, device: Device, estimate: RunEstimate
) -> TrainingChoices:
    """Check the model, then install the fast paths in the order that their dependencies require.

    Args:
        model: the model with its adapter, on its device or about to be sharded over several.
        splits: training and held-out rows.
        cfg: the ``train``, ``adapter`` and ``model`` sections.
        device: where the model is.
        estimate: what is expected of the run.

    Raises:
        ConfigError: if a setting cannot be met, or packed rows would mix their documents in this model.
        TrainingError: if the model's own code fails on a few tokens.
    """
    # A sharded model cannot run on one process alone: its checks run on a small model of the same architecture.
    train, notes = cfg["train"], []
    # A sharded model cannot run yet: the checks use a small model of the same configuration.
    sample = proxy_model_of(model, device) if is_sharded(cfg) else model
    with explaining_unfit_model(model.config.model_type), mixed_precision(sample, mixed_dtype(train, device)):
        if device.is_cpu and not is_sharded(cfg):
            _suit_cpu(model, train)
        if is_packed := any(_is_packed(rows) for rows in splits):
            check_isolation(sample)
        is_dense = _can_be_dense(model, cfg, device) and (is_packed or is_isolated(sample))
        is_shared = is_dense and _can_share(model, splits, train)
        is_chunked, why_not = _chunk_loss(model, sample, train)
    notes += [why_not] if why_not else []
    setting, every_n = train["gradient_checkpointing"], train.get("checkpoint_every_n_layers", 1)
    every = checkpoint_interval(setting, every_n, estimate.least_checkpointing)
    compiled, why_not = _compile(model, train, cfg["adapter"], every, device, estimate)
    notes += [why_not] if why_not else []
    with mixed_precision(sample, mixed_dtype(train, device)):
        liger_layers, why_not = use_liger(model, cfg, device, compiled > 0)
    notes += [why_not] if why_not else []
    notes += _offload(model, device) if train["activation_offloading"] else []
    for note in notes:
        print(f"Note: {note}.", flush=True)
    layout = _layout(model, splits, train, is_chunked, compiled > 0)
    layout = replace(layout, dense=is_dense and not compiled, shares_prefixes=is_shared and not compiled)
    watch = CompilationWatch() if compiled else None
    return TrainingChoices(
        model.config._attn_implementation, is_chunked, every, compiled, layout, tuple(notes), watch, liger_layers
    )


def _suit_cpu(model: Any, train: TrainSection) -> None:
    """Choose attention by what the model really computes, and install fused layers where nothing is compiled."""
    is_compiled = train["torch_compile"] is True
    if model.config._attn_implementation == VARLEN:
        select_attention(model, masked=is_compiled)
    if not is_compiled:
        fuse_layers(model)


def _is_packed(rows: PackedRows) -> bool:
    return any(len(rows.documents(row)) > 1 for row in range(len(rows)))


def _can_be_dense(model: Any, cfg: TrainingSlice, device: Device) -> bool:
    """Tell whether the rows of a batch may be joined into one: attention takes boundaries, and rows have no meaning.

    Preference methods locate pairs by their rows, and an ablation keeps the padding to measure its cost.
    """
    train = cfg["train"]
    is_plain = device.is_cpu and not is_sharded(cfg) and train["method"] == "sft"
    return is_plain and not train.get("keeps_padding") and needs_boundaries(model)


def _can_share(model: Any, splits: tuple[PackedRows, PackedRows], train: PaddedTrain) -> bool:
    """Tell whether documents of a batch may share prefixes; an ablation keeps them apart to measure what that saves."""
    is_wanted = not train.get("keeps_prefixes")
    return is_wanted and can_share_prefixes(model, max(rows.row_length for rows in splits))


def _chunk_loss(model: Any, sample: Any, train: TrainSection) -> tuple[bool, str | None]:
    """Install the chunked loss; return whether it is installed, and why not. Preference losses have their own."""
    if train["chunked_loss"] is False or train["method"] != "sft":
        return False, None
    obstacle = chunked_loss_obstacle(sample)
    if not obstacle:
        put_chunked_loss(model)
        return True, None
    if train["chunked_loss"] is True:
        raise ConfigError(f"train.chunked_loss: true is not possible ({obstacle}): set it to auto.")
    return False, f"the loss computes full logits because {obstacle}"


def _compile(
    model: Any, train: TrainSection, adapter: AdapterSection, every: int, device: Device, estimate: RunEstimate
) -> tuple[int, str | None]:
    setting = train["torch_compile"]
    is_long = setting == "auto" and not device.is_cpu and estimate.is_long()
    # Without compilation the casts to float8 are separate kernels and cost more than the products save.
    setting = True if train["fp8"] else setting
    wanted, why_not = wants_compiling(setting, device, is_long, adapter, every > 0)
    layers = compile_layers(model) if wanted else 0
    if wanted and not layers:
        return 0, "no layers are compiled because transformers does not identify the model's layers"
    if layers:
        print(f"Compiling {layers} layers at the first step.", flush=True)
    return layers, why_not


def _offload(model: Any, device: Device) -> list[str]:
    if device.is_cpu:
        return ["activations are not offloaded, because a CPU already computes in RAM"]
    offload_activations(model)
    return []


def _layout(
    model: Any, splits: tuple[PackedRows, PackedRows], train: TrainSection, places: bool, is_compiled: bool
) -> BatchLayout:
    boundaries = needs_boundaries(model)
    if not is_compiled:
        return BatchLayout(boundaries, places=places)
    size = train["per_device_train_batch_size"]
    # Pairs are located by counting documents, which rows of padding would upset.
    rows = size if train["method"] == "sft" else 0
    if not boundaries:
        return BatchLayout(places=places, rows=rows)
    shapes = [document_shape(split) for split in splits]
    slots = max((shape.slots(size) for shape in shapes), key=lambda slots: slots[-1:])
    return BatchLayout(boundaries, slots, max(shape.longest for shape in shapes), places, rows)
