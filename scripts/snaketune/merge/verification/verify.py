"""The proof of a merge: the written folder, loaded afresh, is base plus adapter; and what its dtype costs.

The two are kept apart. Whether the sum is right is exact and decides: one wrong factor is refused. What rounding to
the format of the files costs is measured, stated, and stops nothing.
"""

import tempfile
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import psutil
import torch

from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.models import (
    ModelSettings,
    attach_adapter,
    best_device,
    free_memory,
    load_model,
)
from snaketune.merge.adapter import Adapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.rounding import AUTOMATIC, Rounding
from snaketune.merge.trained_model import TrainedModel
from snaketune.merge.verification.divergence import ROWS, Comparing, Comparison, kl_stride
from snaketune.merge.verification.logits import Logits
from snaketune.merge.verification.merged_reading import check_auxiliary_files
from snaketune.merge.verification.written_weights import LARGEST_RELATIVE_ERROR, Written, check_written, is_streamed

# Of what tuning changed in the log-probabilities. SmolLM2-135M in bfloat16 after 6 steps, LoRA and DoRA alike: right
# sums 5e-6, one of its 210 weights left out 7e-3, one of its 30 layers 6e-2 to 1e-1.
LARGEST_LOGITS_ERROR = 5e-3
ROOM = 1.3

# From here on the dtype is worth a look: nats per token.
LOOK_KL = 1e-3
LOOK_LOSS = 5e-3  # in relation to the loss, where the interval leaves zero out
LOSS_FLOOR = 0.05  # nats: below it a relative change would measure rounding, not difference
EQUAL, ROUNDED = "equal", "rounded"
CURE = "set merge.enabled to false and use the adapter."


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """What was compared; losses in nats per loss-bearing token, KL of adapter against merged in nats.

    Attributes:
        tensors_merged: weights that were trained.
        adapter_tensors: tensors that training left.
        relative_error_fp32: of the change in the sums against an independent computation, before rounding; the worst
            weight's, or layer's where PEFT merged. None for a model that was trained as a whole.
        logits_error: of the sums before rounding, against base and adapter apart, relative to what tuning changed in
            the log-probabilities. None where memory held no float32 model, or all weights were trained.
        file_logits_error: the same of the files as they load, against their weights in the tuned model's place.
        weights: numbers in the trained weights.
        moved: those that are stored otherwise than in the base model.
        change_kept: the part of the change that the stored weights hold, 1 where rounding lost nothing.
        mean_kl: adapter against merged.
        mean_kl_interval: its 95% interval, None where the rows are too few for one.
        loss_change: merged minus adapter.
        loss_change_interval: its 95% interval.
        relative_loss_change: relative to the adapter's loss, or to 0.05 nats when that is smaller.
        rows: packed rows compared.
        tokens: loss-bearing tokens the losses are over.
        kl_tokens: those, evenly spaced, that the KL is over.
        computed_in: dtype of the arithmetic, which adds its own noise to a KL in 16 bits.
        verdict: ``equal``, or ``rounded`` where the dtype of the files is worth a look.
    """

    tensors_merged: int
    adapter_tensors: int
    relative_error_fp32: float | None
    logits_error: float | None
    file_logits_error: float | None
    weights: int
    moved: int
    change_kept: float | None
    mean_kl: float
    mean_kl_interval: tuple[float, float] | None
    adapter_loss: float
    merged_loss: float
    loss_change: float
    loss_change_interval: tuple[float, float] | None
    relative_loss_change: float
    rows: int
    tokens: int
    kl_tokens: int
    computed_in: str
    verdict: str = EQUAL

    def facts(self) -> dict[str, Any]:
        """Return the check as facts for the manifest."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Proof:
    """What a merge is checked with: the base folder, what was trained, rows to read, how to load, the template.

    ``dtype`` is the dtype asked for, None for that of each base weight; ``rounding`` is how it was reached.
    """

    base_folder: Path
    tuned: Adapter | TrainedModel
    rows: PackedRows
    settings: ModelSettings
    template: str
    dtype: torch.dtype | None = None
    rounding: Rounding = AUTOMATIC

    @property
    def tensors(self) -> int:
        """Number of tensors that were trained."""
        return len(self.tuned.tensors if isinstance(self.tuned, Adapter) else self.tuned.weights.dtypes)

    def load(self, settings: ModelSettings, device: torch.device | None = None) -> Any:
        """Return the tuned model: the base with its adapter, or the model that was trained as a whole."""
        if isinstance(self.tuned, TrainedModel):
            return load_model(self.tuned.folder, settings, device)
        return attach_adapter(load_model(self.base_folder, settings, device), self.tuned.folder)


def verify_merge(folder: Path, proof: Proof) -> MergeCheck:
    """Return the numbers that prove the model in ``folder`` to be base plus adapter, and what its format costs.

    One model is in memory at a time: the adapter's log-probabilities wait on disk, at most 1 GiB of them.

    Raises:
        TrainingError: with the numbers, if it is not, or if it equals the base model.
    """
    check_auxiliary_files(folder, proof.base_folder, proof.rows, proof.template, proof.settings)
    trust = proof.settings.trust_remote_code
    written = check_written(folder, proof.base_folder, proof.tuned, proof.dtype, trust, proof.rounding)
    _refuse_wrong_sums(written.relative_error)
    if not written.account.changed:
        raise TrainingError(
            f"None of the {written.merged} merged weights differs from the base model: the training is lost in "
            "rounding; set merge.rounding to stochastic, merge.dtype to float32, or train longer."
        )
    settings = comparing_settings(proof)
    is_exact = settings.dtype == "float32"
    logits = _logits(proof, settings)
    with tempfile.TemporaryFile(dir=folder) as spool:
        tuned = proof.load(settings)
        stride = kl_stride(proof.rows, tuned.get_output_embeddings().weight.shape[0])
        comparing = Comparing(spool, proof.rows, settings, stride)
        comparing.read_first(tuned)
        if is_exact:
            logits.read_tuned(tuned, Checkpoint(folder))
        del tuned
        free_memory()
        merged = load_model(folder, settings)
        found = comparing.read_second(merged)
        file_error = logits.file_error(merged) if is_exact else None
        del merged
        free_memory()
    if not is_exact:
        file_error = _exact_on_the_cpu(folder, proof, logits)
    check = _check(proof, written, found, logits.sum_error, file_error, settings.dtype)
    _judge(check)
    return replace(check, verdict=ROUNDED if is_worth_a_look(found) else EQUAL)


def _logits(proof: Proof, settings: ModelSettings) -> Logits:
    base = Checkpoint(proof.base_folder)
    streamed = isinstance(proof.tuned, Adapter) and is_streamed(base, proof.tuned)
    return Logits(base, proof.tuned, streamed, proof.rows, replace(settings, dtype="float32"))


def _exact_on_the_cpu(folder: Path, proof: Proof, logits: Logits) -> float | None:
    """Compare the logits in float32 in the main memory, where the GPU has no room for that; None if neither has."""
    size = 4 * sum(map(prod, Checkpoint(proof.base_folder).shapes.values()))
    if size * ROOM > psutil.virtual_memory().available:
        return None
    settings, cpu = replace(comparing_settings(proof), dtype="float32"), torch.device("cpu")
    tuned = proof.load(settings, cpu)
    logits.read_tuned(tuned, Checkpoint(folder))
    del tuned
    free_memory()
    return logits.file_error(load_model(folder, settings, cpu))


def _check(
    proof: Proof, written: Written, found: Comparison, sum_error: float | None, file_error: float | None, dtype: str
) -> MergeCheck:
    account = written.account
    return MergeCheck(
        tensors_merged=written.merged,
        adapter_tensors=proof.tensors,
        relative_error_fp32=written.relative_error,
        logits_error=sum_error,
        file_logits_error=file_error,
        weights=account.weights,
        moved=account.moved,
        change_kept=account.kept,
        mean_kl=found.kl.value,
        mean_kl_interval=found.kl.interval,
        adapter_loss=found.first_loss,
        merged_loss=found.second_loss,
        loss_change=found.change.value,
        loss_change_interval=found.change.interval,
        relative_loss_change=abs(found.change.value) / max(found.first_loss, LOSS_FLOOR),
        rows=min(ROWS, len(proof.rows)),
        tokens=found.tokens,
        kl_tokens=found.kl_tokens,
        computed_in=dtype,
    )


def is_worth_a_look(found: Comparison) -> bool:
    """Tell whether the dtype of the files costs so much that a person should know before serving them."""
    low = found.change.interval[0] if found.change.interval else found.change.value
    costs = found.change.value > LOOK_LOSS * max(found.first_loss, LOSS_FLOOR) and low > 0
    return found.kl.value > LOOK_KL or costs


def _refuse_wrong_sums(error: float | None) -> None:
    # Written so that a number which is not one fails, too.
    if error is not None and not error < LARGEST_RELATIVE_ERROR:
        raise TrainingError(
            f"The merged weights are not base plus adapter: the relative error of the worst change is {error:.3g}"
            f" (limit {LARGEST_RELATIVE_ERROR:g}): {CURE}"
        )


def _judge(check: MergeCheck) -> None:
    found = {name: getattr(check, name) for name in ("logits_error", "file_logits_error")}
    failed = [name for name, error in found.items() if error is not None and not error < LARGEST_LOGITS_ERROR]
    if failed or not check.merged_loss < float("inf"):
        told = ", ".join(f"{name} {found[name]:.3g} (limit {LARGEST_LOGITS_ERROR:g})" for name in failed)
        raise TrainingError(
            f"The merged model does not match the tuned one: {told or 'its loss is not a number'}; loss "
            f"{check.merged_loss:.6f} against {check.adapter_loss:.6f} nats on {check.rows} rows: {CURE}"
        )


def comparing_settings(proof: Proof) -> ModelSettings:
    """Return how both models are loaded: float32 where a GPU's free memory allows, without FlashAttention."""
    attention = "sdpa" if proof.settings.uses_flash else proof.settings.attn_implementation
    dtype = "float32"
    if best_device().type == "cuda":
        shapes = Checkpoint(proof.base_folder).shapes.values()
        fits = 4 * sum(map(prod, shapes)) * ROOM < torch.cuda.mem_get_info()[0]
        half = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        dtype = "float32" if fits else half
    return replace(proof.settings, dtype=dtype, attn_implementation=attention)
