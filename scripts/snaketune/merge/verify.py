"""The proof of a merge: the written folder, loaded afresh, is the same model as base plus adapter."""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import ceil, prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from snaketune.common.errors import TrainingError
from snaketune.data.rows import PackedRows
from snaketune.evaluate.models import (
    ModelSettings,
    attach_adapter,
    best_device,
    free_memory,
    load_model,
)
from snaketune.evaluate.scoring import scored_chunks
from snaketune.merge.adapter import Adapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.reading import check_companions
from snaketune.merge.streaming import merged_weight
from snaketune.merge.trained_model import TrainedModel
from snaketune.merge.written import check_written, is_streamed

ROWS = 64
SPOOL_BYTES = 1 << 30
PROBES = 8

# Rounding merged weights to bfloat16 gives a mean KL of 5.5e-5 on a random model, the worst case (measured).
LARGEST_KL = 1e-3
LARGEST_LOSS_CHANGE = 2e-3
LARGEST_RELATIVE_ERROR = 1e-5
LOSS_FLOOR = 0.05  # nats: below it a relative change would measure rounding, not difference


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """What was compared; losses in nats per loss-bearing token, KL of adapter against merged in nats.

    Attributes:
        relative_error_fp32: of merged layers against an independent computation, before rounding; None where the
            adapter has no linear layer to probe.
        relative_loss_change: relative to the adapter's loss, or to 0.05 nats when that is smaller.
        rows: packed rows compared.
        tokens: loss-bearing tokens the losses are over.
        kl_tokens: those, evenly spaced, that the KL is over.
    """

    tensors_merged: int
    adapter_tensors: int
    relative_error_fp32: float | None
    mean_kl: float
    adapter_loss: float
    merged_loss: float
    relative_loss_change: float
    rows: int
    tokens: int
    kl_tokens: int
    verdict: str = "equal"

    def facts(self) -> dict[str, Any]:
        """Return the check as facts for the manifest."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Proof:
    """What a merge is checked with: the base folder, what was trained, rows to read, how to load, the template.

    ``dtype`` is the number format asked for, None for that of each base weight.
    """

    base_folder: Path
    tuned: Adapter | TrainedModel
    rows: PackedRows
    settings: ModelSettings
    template: str
    dtype: torch.dtype | None = None

    @property
    def tensors(self) -> int:
        """Number of tensors that were trained."""
        return len(self.tuned.tensors if isinstance(self.tuned, Adapter) else self.tuned.weights.dtypes)

    def load(self, settings: ModelSettings) -> Any:
        """Return the tuned model: the base with its adapter, or the model that was trained as a whole."""
        if isinstance(self.tuned, TrainedModel):
            return load_model(self.tuned.folder, settings)
        return attach_adapter(load_model(self.base_folder, settings), self.tuned.folder)


def verify_merge(folder: Path, proof: Proof) -> MergeCheck:
    """Return the numbers that prove the model in ``folder`` equal to base plus adapter.

    One model is in memory at a time: the adapter's log-probabilities wait on disk, at most 1 GiB of them.

    Raises:
        TrainingError: with the numbers, if it is not equal, or equal to the base model.
    """
    check_companions(folder, proof.base_folder, proof.rows, proof.template, proof.settings)
    written = check_written(folder, proof.base_folder, proof.tuned, proof.dtype, proof.settings.trust_remote_code)
    if not written.changed:
        raise TrainingError(
            f"None of the {written.merged} merged weights differs from the base model: what was learned is lost"
            " in rounding; set merge.dtype to float32, or train longer."
        )
    settings = comparing_settings(proof)
    with tempfile.TemporaryFile(dir=folder) as spool:
        tuned = proof.load(settings)
        error = written.relative_error
        if isinstance(proof.tuned, Adapter) and is_streamed(Checkpoint(proof.base_folder), proof.tuned):
            error = structural_error(proof.base_folder, proof.tuned, tuned)
        stride = kl_stride(proof.rows, tuned.get_output_embeddings().weight.shape[0])
        adapter_loss, tokens = _keep(spool, tuned, proof.rows, settings, stride)
        del tuned
        free_memory()
        spool.seek(0)
        merged_loss, mean_kl, kl_tokens = _compare(spool, load_model(folder, settings), proof.rows, settings, stride)
    check = MergeCheck(
        tensors_merged=written.merged,
        adapter_tensors=proof.tensors,
        relative_error_fp32=error,
        mean_kl=mean_kl,
        adapter_loss=adapter_loss,
        merged_loss=merged_loss,
        relative_loss_change=abs(merged_loss - adapter_loss) / max(adapter_loss, LOSS_FLOOR),
        rows=min(ROWS, len(proof.rows)),
        tokens=tokens,
        kl_tokens=kl_tokens,
    )
    _judge(check)
    return check


def _judge(check: MergeCheck) -> None:
    # Written so that a number which is not one fails, too.
    limits = {
        "mean_kl": LARGEST_KL,
        "relative_loss_change": LARGEST_LOSS_CHANGE,
        "relative_error_fp32": LARGEST_RELATIVE_ERROR,
    }
    found = {name: getattr(check, name) for name in limits}
    failed = [name for name, limit in limits.items() if found[name] is not None and not found[name] < limit]
    if failed:
        told = ", ".join(f"{name} {found[name]:.3g} (limit {limits[name]:g})" for name in failed)
        raise TrainingError(
            f"The merged model is not the tuned one: {told}; loss {check.merged_loss:.6f} against"
            f" {check.adapter_loss:.6f} nats on {check.rows} rows: try merge.dtype float32, or set merge.enabled to"
            " false and use the adapter as it is."
        )


def comparing_settings(proof: Proof) -> ModelSettings:
    """Return how both models are loaded: float32 where a GPU's free memory allows, without FlashAttention."""
    attention = "sdpa" if proof.settings.uses_flash else proof.settings.attn_implementation
    dtype = "float32"
    if best_device().type == "cuda":
        shapes = Checkpoint(proof.base_folder).shapes.values()
        fits = 4 * sum(map(prod, shapes)) * 1.3 < torch.cuda.mem_get_info()[0]
        dtype = "float32" if fits else "bfloat16"
    return replace(proof.settings, dtype=dtype, attn_implementation=attention)


def structural_error(base_folder: Path, adapter: Adapter, tuned: Any) -> float:
    """Return the largest relative error of the first two and the last merged layer.

    The outputs of the merged float32 weight, whose rounding is in the file, are compared with those of base and adapter
    kept apart, in float64 and with the scale that PEFT uses.
    """
    base, errors = Checkpoint(base_folder), []
    for module in dict.fromkeys([*adapter.modules[:2], adapter.modules[-1]]):
        scale = tuned.get_base_model().get_submodule(module).scaling["default"]
        result = merged_weight(base, adapter, module)
        errors.append(_layer_error(base.tensor(f"{module}.weight"), result, adapter, module, scale))
    return max(errors)


def _layer_error(weight: torch.Tensor, result: torch.Tensor, adapter: Adapter, module: str, scale: float) -> float:
    is_transposed = getattr(adapter.config, "fan_in_fan_out", False)
    weight, result = (w.double().T if is_transposed else w.double() for w in (weight, result))
    inputs = torch.randn(weight.shape[1], PROBES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = (factor.double() for factor in adapter.factors(module))
    expected = weight @ inputs + scale * (second @ (first @ inputs))
    return float((result @ inputs - expected).norm() / expected.norm())


def kl_stride(rows: PackedRows, vocabulary: int) -> int:
    """Return the distance between the positions whose log-probabilities are kept, so that they fit into 1 GiB."""
    positions = sum(int(rows.take("loss_mask", [row]).sum()) for row in range(min(ROWS, len(rows))))
    return max(1, ceil(positions * vocabulary * 4 / SPOOL_BYTES))


def _log_probabilities(
    model: Any, rows: PackedRows, settings: ModelSettings, stride: int
) -> Iterator[tuple[float, int, torch.Tensor]]:
    """Yield per chunk: summed loss, positions, and the log-probabilities of every ``stride``-th position overall."""
    seen = 0
    for chunk in scored_chunks(model, rows, settings, limit=ROWS):
        values = torch.log_softmax(chunk.logits, dim=1)
        loss = -values.gather(1, chunk.targets[:, None]).double().sum().item()
        yield loss, len(values), values[-seen % stride :: stride].cpu()
        seen += len(values)


def _keep(spool: IO[bytes], model: Any, rows: PackedRows, settings: ModelSettings, stride: int) -> tuple[float, int]:
    total, positions = 0.0, 0
    for loss, count, values in _log_probabilities(model, rows, settings, stride):
        total, positions = total + loss, positions + count
        spool.write(values.contiguous().numpy().tobytes())
    return total / positions, positions


def _compare(
    spool: IO[bytes], model: Any, rows: PackedRows, settings: ModelSettings, stride: int
) -> tuple[float, float, int]:
    total, divergence, positions, kept = 0.0, 0.0, 0, 0
    for loss, count, values in _log_probabilities(model, rows, settings, stride):
        stored = np.frombuffer(bytearray(spool.read(values.numel() * 4)), np.float32)
        expected = torch.from_numpy(stored).view(values.shape)
        divergence += (expected.exp() * (expected - values)).double().sum().item()
        total, positions, kept = total + loss, positions + count, kept + len(values)
    return total / positions, max(0.0, divergence / kept), kept
