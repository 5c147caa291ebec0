"""Verification of a merge: the written folder, loaded afresh, is base plus adapter; and the cost of its dtype.

The two are separate. Whether the merge is correct is tested before rounding, with tight limits, and decides: a single
wrong factor is refused. The cost of rounding to the files' dtype is measured and reported, and never refuses a merge.
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
from snaketune.merge.adapter import LoadedAdapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.rounding import AUTOMATIC, Rounding
from snaketune.merge.trained_model import TrainedModel
from snaketune.merge.verification.divergence import ROWS_COMPARED, Comparing, ModelComparison, kl_stride
from snaketune.merge.verification.logits import Logits
from snaketune.merge.verification.merged_reading import check_auxiliary_files
from snaketune.merge.verification.written_weights import (
    LARGEST_RELATIVE_ERROR,
    Written,
    check_written_weights,
    is_streamed,
)

# Limit on the error relative to the change of the log-probabilities by tuning. Measured with SmolLM2-135M in bfloat16
# after 6 steps, LoRA and DoRA: correct merges 5e-6, one of 210 weights left out 7e-3, one of 30 layers 6e-2 to 1e-1.
LARGEST_LOGITS_ERROR = 5e-3
VERIFICATION_MEMORY = 1.3

# Above these the verdict is ``rounded``, which refuses nothing: mean KL in nats per token, and the rise of the loss
# relative to it, if the confidence interval excludes zero.
LOOK_KL = 1e-3
LOOK_LOSS = 5e-3
LOSS_FLOOR = 0.05  # nats: relative to a smaller loss, even rounding would look like a large change
EQUAL, ROUNDED = "equal", "rounded"
CURE = "set merge.enabled to false and use the adapter."


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightCheck:
    """Results of the verification of any merged model.

    Attributes:
        tensors_merged: trained weights.
        adapter_tensors: tensors of the adapter, or of a fully trained model.
        relative_error_fp32: relative error of the change before rounding, against an independent computation: the
            worst weight's, or the worst layer's if PEFT merged. None after full training.
        logits_error: error of the merged weights before rounding against base plus adapter, relative to the change by
            tuning, of log-probabilities or of scores. None if no float32 model fits in memory, or after full training.
        file_logits_error: the same for the files as loaded, against their weights put into the tuned model.
        weights: values in the trained weights.
        moved: those of them that differ from the base model's as stored.
        change_kept: fraction of the change that the stored weights hold, 1 if rounding lost nothing.
        rows: packed rows compared.
        computed_in: dtype of the comparison; 16 bits add noise of their own to the KL.
        verdict: ``equal``, or ``rounded`` if the cost of the files' dtype exceeds the limits.
    """

    tensors_merged: int
    adapter_tensors: int
    relative_error_fp32: float | None
    logits_error: float | None
    file_logits_error: float | None
    weights: int
    moved: int
    change_kept: float | None
    rows: int
    computed_in: str
    verdict: str = EQUAL

    def facts(self) -> dict[str, Any]:
        """Return the check as facts for the manifest."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeCheck(WeightCheck):
    """That of a language model; losses in nats per loss-bearing token, KL(adapter || merged) in nats per token.

    Attributes:
        mean_kl: mean KL divergence.
        mean_kl_interval: its 95% confidence interval; None with too few rows.
        loss_change: merged minus adapter.
        loss_change_interval: its 95% confidence interval.
        relative_loss_change: relative to the adapter's loss, or to 0.05 nats if that is smaller.
        tokens: loss-bearing tokens that the losses are averaged over.
        kl_tokens: tokens, evenly spaced, that the KL is averaged over.
    """

    mean_kl: float
    mean_kl_interval: tuple[float, float] | None
    adapter_loss: float
    merged_loss: float
    loss_change: float
    loss_change_interval: tuple[float, float] | None
    relative_loss_change: float
    tokens: int
    kl_tokens: int


@dataclass(frozen=True, slots=True)
class VerificationInputs:
    """Inputs of the verification: base folder, trained adapter or model, rows, loading settings, chat template.

    ``dtype`` is the requested dtype, None for that of each base weight; ``rounding`` is how weights were rounded to it.
    """

    base_folder: Path
    tuned: LoadedAdapter | TrainedModel
    rows: PackedRows
    settings: ModelSettings
    template: str
    dtype: torch.dtype | None = None
    rounding: Rounding = AUTOMATIC

    @property
    def tensors(self) -> int:
        """Number of tensors that were trained."""
        return len(self.tuned.tensors if isinstance(self.tuned, LoadedAdapter) else self.tuned.weights.dtypes)

    def load(self, settings: ModelSettings, device: torch.device | None = None) -> Any:
        """Return the tuned model: the base with its adapter, or the fully trained model."""
        if isinstance(self.tuned, TrainedModel):
            return load_model(self.tuned.folder, settings, device)
        return attach_adapter(load_model(self.base_folder, settings, device), self.tuned.folder)


def verify_merge(folder: Path, proof: VerificationInputs) -> MergeCheck:
    """Verify that the model in ``folder`` is base plus adapter, and measure the cost of its dtype.

    Memory holds one model at a time: the adapter's log-probabilities are stored on disk, at most 1 GiB of them.

    Raises:
        TrainingError: with the numbers, if the merge is wrong or equals the base model.
    """
    written = check_files(folder, proof)
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


def check_files(folder: Path, proof: VerificationInputs) -> Written:
    """Check the files of the model in ``folder``: tokenizer and settings, and every weight against its recomputation.

    Raises:
        TrainingError: if one is wrong, or every weight equals the base model's.
    """
    check_auxiliary_files(folder, proof.base_folder, proof.rows, proof.template, proof.settings)
    trust = proof.settings.trust_remote_code
    written = check_written_weights(folder, proof.base_folder, proof.tuned, proof.dtype, trust, proof.rounding)
    _refuse_wrong_sums(written.relative_error)
    if not written.account.changed:
        raise TrainingError(
            f"None of the {written.merged} merged weights differs from the base model: the training is lost in "
            "rounding; set merge.rounding to stochastic, merge.dtype to float32, or train longer."
        )
    return written


def _logits(proof: VerificationInputs, settings: ModelSettings) -> Logits:
    base = Checkpoint(proof.base_folder)
    streamed = isinstance(proof.tuned, LoadedAdapter) and is_streamed(base, proof.tuned)
    return Logits(base, proof.tuned, streamed, proof.rows, replace(settings, dtype="float32"))


def _exact_on_the_cpu(folder: Path, proof: VerificationInputs, logits: Logits) -> float | None:
    """Compare the logits in float32 on the CPU because they do not fit the GPU; None if RAM is too small as well."""
    size = 4 * sum(map(prod, Checkpoint(proof.base_folder).shapes.values()))
    if size * VERIFICATION_MEMORY > psutil.virtual_memory().available:
        return None
    settings, cpu = replace(comparing_settings(proof), dtype="float32"), torch.device("cpu")
    tuned = proof.load(settings, cpu)
    logits.read_tuned(tuned, Checkpoint(folder))
    del tuned
    free_memory()
    return logits.file_error(load_model(folder, settings, cpu))


def _check(
    proof: VerificationInputs,
    written: Written,
    found: ModelComparison,
    sum_error: float | None,
    file_error: float | None,
    dtype: str,
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
        rows=min(ROWS_COMPARED, len(proof.rows)),
        tokens=found.tokens,
        kl_tokens=found.kl_tokens,
        computed_in=dtype,
    )


def is_worth_a_look(found: ModelComparison) -> bool:
    """Tell whether the files' dtype costs so much that users should know before serving the model."""
    low = found.change.interval[0] if found.change.interval else found.change.value
    costs = found.change.value > LOOK_LOSS * max(found.first_loss, LOSS_FLOOR) and low > 0
    return found.kl.value > LOOK_KL or costs


def _refuse_wrong_sums(error: float | None) -> None:
    # `not <` rather than `>=`: NaN has to fail, too.
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


def comparing_settings(proof: VerificationInputs) -> ModelSettings:
    """Return how both models are loaded: in float32 if the GPU's free memory allows, without FlashAttention."""
    attention = "sdpa" if proof.settings.uses_flash else proof.settings.attn_implementation
    dtype = "float32"
    if best_device().type == "cuda":
        shapes = Checkpoint(proof.base_folder).shapes.values()
        fits = 4 * sum(map(prod, shapes)) * VERIFICATION_MEMORY < torch.cuda.mem_get_info()[0]
        half = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        dtype = "float32" if fits else half
    return replace(proof.settings, dtype=dtype, attn_implementation=attention)
