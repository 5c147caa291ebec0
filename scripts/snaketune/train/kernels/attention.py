"""Attention over packed rows: which kernel runs where, and a check that documents do not attend to each other.

On a GPU packed rows go through a kernel that takes the document boundaries (``cu_seq_lens``: cumulative lengths, so
that document i is tokens c[i] to c[i + 1] - 1). It needs no mask of ``T * T`` entries and reads no positions in each
layer. torch ships such a kernel, registered with transformers as :data:`VARLEN`. On a CPU
:mod:`snaketune.train.kernels.cpu_attention` takes the same boundaries. Models whose attention is not a plain dot
product use scaled dot-product attention with a mask built from the positions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, PretrainedConfig
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from snaketune.core.errors import ConfigError
from snaketune.model.architecture import Support, body_of, read_configuration, support_of
from snaketune.train.batches import with_boundaries
from snaketune.train.device import Device, is_exact
from snaketune.train.kernels.cpu_attention import attend_by_document

# Name of the kernel in transformers. It differs from the setting (``varlen``) because inference, with padding or a
# cache, takes the same setting and gets sdpa (:func:`snaketune.train.device.attention`).
VARLEN = "varlen_packed"
# torch's flash kernels take head sizes up to this, in multiples of 8 (aten/src/ATen/native/transformers/cuda).
WIDEST_HEAD, HEAD_STEP = 256, 8
# Names of the attention dropout probability in model configurations.
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
# Relative change allowed in a document's outputs when another precedes it: rounding. Mixing changes them completely.
ATTENTION_TOLERANCE_FLOAT32, ATTENTION_TOLERANCE_HALF = 1e-3, 0.1

Kernel = Callable[..., Any]


def training_attention(
    setting: str, device: Device, dtype: torch.dtype, folder: str | Path, trust_remote_code: bool = False
) -> str:
    """Return the attention implementation that transformers gets for training.

    Args:
        setting: ``model.attn_implementation``.
        device: where the model goes.
        dtype: compute dtype; GPU kernels with boundaries take 16 bits only.
        folder: the model, whose configuration gives the head size and whose class the supported kernels.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        ConfigError: if the requested kernel cannot run here, or not with this model.
    """
    config = read_configuration(folder, trust_remote_code)
    support = support_of(config)
    if setting not in ("auto", "varlen"):
        _refuse_unsupported_kernel(setting, support)
        if setting.startswith("flash") and not device.is_cpu and (why := _not_for_flash(dtype, _settings(folder))):
            raise ConfigError(f"model.attn_implementation: {setting} cannot be used here ({why}): set it to auto.")
        return setting
    obstacle = _obstacle(device, dtype, folder, support)
    if obstacle and setting == "varlen":
        raise ConfigError(f"model.attn_implementation: varlen cannot be used here ({obstacle}): set it to auto.")
    if device.is_cpu and not obstacle:
        register_varlen(attend_by_document)
        return VARLEN
    if device.is_cpu or dtype == torch.float32:
        return _masked(support)
    flash = _installed_flash(torch.cuda.get_device_capability())
    if flash and setting == "auto" and support.runs(flash) and not _not_for_flash(dtype, _settings(folder)):
        return flash
    if obstacle:
        kernel = _masked(support)
        print(f"Attention runs in {kernel} with a mask of T x T per row, which is slow: {obstacle}.", flush=True)
        return kernel
    register_varlen()
    return VARLEN


def _masked(support: Support) -> str:
    """Return the kernel that takes a mask; print why if that is eager attention, the slowest."""
    if support.sdpa:
        return "sdpa"
    print(
        f"Attention runs in eager mode, which keeps all attention weights in memory: transformers has {support.kind} "
        "models with no faster kernel on this device.",
        flush=True,
    )
    return "eager"


def _refuse_unsupported_kernel(setting: str, support: Support) -> None:
    if not support.runs(setting):
        able = ", ".join(
            name for name in ("eager", "sdpa", "flash_attention_2", "flex_attention") if support.runs(name)
        )
        raise ConfigError(
            f"model.attn_implementation: transformers has no {setting} for {support.kind} models (it has {able}): set"
            " it to auto."
        )


def _installed_flash(capability: tuple[int, int]) -> str | None:
    if capability[0] == 9 and is_flash_attn_3_available():
        return "flash_attention_3"
    return "flash_attention_2" if capability[0] >= 8 and is_flash_attn_2_available() else None


def _obstacle(device: Device, dtype: torch.dtype, folder: str | Path, support: Support) -> str | None:
    """Return why a kernel with document boundaries cannot run, or None."""
    if dtype == torch.float32 and not device.is_cpu:
        return "it computes in 16 bits but this run in float32"
    if not device.is_cpu and torch.cuda.get_device_capability()[0] < 8:
        return "it needs an Ampere or newer GPU"
    if not support.any_kernel:
        return f"{support.kind} models have their own attention, which supports no other kernel"
    if not support.sdpa:
        return f"{support.kind} models do not use plain dot-product attention (but sinks, capped logits or a bias)"
    settings = _settings(folder)
    return _unsuitable_attention(settings) or (None if device.is_cpu else _unsuitable_heads(settings))


def _not_for_flash(dtype: torch.dtype, settings: dict[str, Any]) -> str | None:
    """Return why the FlashAttention package cannot run on this GPU or head size, or None."""
    if dtype == torch.float32:
        return "it computes in 16 bits but this run in float32"
    if torch.cuda.get_device_capability()[0] < 8:
        return "it needs an Ampere or newer GPU"
    return _unsuitable_heads(settings)


def _settings(folder: str | Path) -> dict[str, Any]:
    settings, _ = PretrainedConfig.get_config_dict(str(folder), local_files_only=True)
    return settings.get("text_config", settings)


def _unsuitable_attention(settings: dict[str, Any]) -> str | None:
    if settings.get("attn_logit_softcapping"):
        return "the model caps its attention logits"
    if any(settings.get(name) for name in DROPOUTS):
        return "the model uses attention dropout"
    if settings.get("attention_chunk_size"):
        return "the model attends within chunks"
    return "queries and values differ in size (latent attention)" if settings.get("qk_nope_head_dim") else None


def _unsuitable_heads(settings: dict[str, Any]) -> str | None:
    width = settings.get("head_dim")
    if width is None and settings.get("hidden_size") and settings.get("num_attention_heads"):
        width = settings["hidden_size"] // settings["num_attention_heads"]
    if width and (width > WIDEST_HEAD or width % HEAD_STEP):
        return f"its head size is {width}, but the kernel needs multiples of {HEAD_STEP} up to {WIDEST_HEAD}"
    return None


def register_varlen(kernel: Kernel | None = None) -> None:
    """Register the kernel with transformers under the name :data:`VARLEN`.

    No mask function is registered with it: transformers then builds no mask and does not read the positions, which
    would synchronise with the GPU in every forward pass.

    Args:
        kernel: used instead of ``torch.nn.attention.varlen.varlen_attn``; has its signature.
    """
    from torch.nn.attention.varlen import varlen_attn

    AttentionInterface.register(VARLEN, _over_documents(kernel or varlen_attn))


def _over_documents(kernel: Kernel) -> Callable[..., tuple[torch.Tensor, None]]:
    def attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, sliding_window=None, **kwargs):
        """Attend within documents: the rows of the batch form one sequence, split at ``cu_seq_lens``.

        Arguments (shape [rows, heads, T, width]) and result (shape [rows, T, heads, width]) are as in transformers.
        """
        boundaries, longest = [kwargs.get(f"cu_seq_lens_{side}") for side in "qk"], kwargs.get("max_length_q")
        _refuse_unsupported(boundaries, attention_mask, dropout, kwargs)
        rows, heads, length, _ = query.shape
        flat = [_flattened(states, _computing_dtype(states)) for states in (query, key, value)]
        # (left, right): tokens visible besides the query's own, -1 for all. Zero to the right makes it causal;
        # transformers' sliding window includes the query's own token, hence - 1.
        window = (-1, 0) if sliding_window is None else (sliding_window - 1, 0)
        grouped = key.shape[1] != heads
        out = kernel(*flat, *boundaries, longest, longest, scale=scaling, window_size=window, enable_gqa=grouped)
        return out.view(rows, length, heads, value.shape[-1]), None

    return attend


def _refuse_unsupported(boundaries, mask, dropout: float, kwargs: dict[str, Any]) -> None:
    if any(each is None for each in boundaries) or mask is not None:
        raise ConfigError(
            "model.attn_implementation: varlen needs packed rows, but got a batch without document boundaries: set it "
            "to auto."
        )
    if dropout or any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise ConfigError(
            "model.attn_implementation: varlen supports neither attention dropout, capped logits, sinks nor position "
            "bias: set it to eager."
        )


def _flattened(states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Turn [rows, heads, T, width] into [rows * T, heads, width]; a view for the output of a projection."""
    return states.transpose(1, 2).reshape(-1, states.shape[1], states.shape[3]).to(dtype)


def _computing_dtype(states: torch.Tensor) -> torch.dtype:
    """Return the kernel's dtype: under autocast rotary embeddings return float32 if the weights are float32."""
    kind = states.device.type
    is_wide = states.dtype == torch.float32 and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_wide else states.dtype


def needs_boundaries(model: Any) -> bool:
    """Tell whether the model's attention kernel separates documents by boundaries instead of positions."""
    return model.config._attn_implementation.startswith((VARLEN, "flash"))


@torch.no_grad()
def select_attention(model: Any, masked: bool = False) -> None:
    """Fall back to attention with a mask if the kernel with boundaries does not compute this model's attention.

    Both are compared on a short document: a layer may pass its kernel a bias or a cap that no configuration names.
    :func:`check_isolation` tests separately that the documents of a row do not attend to each other.
    ``masked`` takes the mask in any case: compiled layers cannot contain a loop over documents.
    """
    was_training = model.training
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if masked:
        base.set_attn_implementation("sdpa")
        return
    try:
        with torch.random.fork_rng([]):
            _second_document(model.train(), alone=True)  # a layer passes its dropout in training mode only
        by_document = _second_document(model.eval(), alone=True)
    except ConfigError:
        by_document = None
    model.eval()
    base.set_attn_implementation("sdpa")
    expected = _second_document(model, alone=True)
    model.train(was_training)
    limit = ATTENTION_TOLERANCE_FLOAT32 if expected.dtype == torch.float32 else ATTENTION_TOLERANCE_HALF
    if by_document is not None and bool((by_document - expected).norm() <= limit * expected.norm()):
        base.set_attn_implementation(VARLEN)
    else:
        print("Note: attention runs with a mask: this model's is not plain dot-product attention.", flush=True)


def check_isolation(model: Any) -> None:
    """Check on this model, device and kernel that a document does not attend to the one before it in its row.

    Configurations cannot tell: a model's own code may ignore positions. Call it under the mixed precision of training:
    kernels with boundaries take 16 bits only.

    Raises:
        ConfigError: if documents mix, as in layers that are not attention (state-space models, for example).
    """
    change, limit = _change_behind_another(model)
    if not change <= limit:
        raise ConfigError(
            f"tokens.packing: true mixes neighbouring documents in this model with {model.config._attn_implementation}"
            f" attention (a document's outputs change by {change:.1%} after another one): set it to false."
        )


def is_isolated(model: Any) -> bool:
    """Tell whether a document is independent of the one before it, see :func:`check_isolation`."""
    change, limit = _change_behind_another(model)
    return change <= limit


@torch.no_grad()
def _change_behind_another(model: Any) -> tuple[float, float]:
    """Return the largest relative change of a token's state when another document precedes its own, and the limit."""
    was_training = model.training
    model.eval()
    alone, behind = _second_document(model, alone=True), _second_document(model, alone=False)
    model.train(was_training)
    change = float(((alone - behind).norm(dim=-1) / alone.norm(dim=-1).clamp_min(1e-12)).max())
    is_close = is_exact(alone) and (alone.device.type == "cpu" or not needs_boundaries(model))
    return change, ATTENTION_TOLERANCE_FLOAT32 if is_close else ATTENTION_TOLERANCE_HALF


def given_to(base: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch as the model takes it: with the boundaries that its attention needs, on its device."""
    batch = with_boundaries(batch) if needs_boundaries(base) else batch
    device = next(base.parameters()).device
    return {name: part.to(device) if isinstance(part, torch.Tensor) else part for name, part in batch.items()}


def _second_document(model: Any, alone: bool, lengths: tuple[int, int] = (11, 9)) -> torch.Tensor:
    """Return the last hidden states of the second of two short documents, shape [tokens, width]."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids = (torch.arange(sum(lengths)) * 7 + 3) % base.config.get_text_config().vocab_size
    positions = torch.cat([torch.arange(length) for length in lengths])
    kept = slice(lengths[0], None) if alone else slice(None)
    batch = given_to(base, {"input_ids": ids[None, kept], "position_ids": positions[None, kept]})
    return body_of(base)(**batch, use_cache=False).last_hidden_state[0, -lengths[1] :]
