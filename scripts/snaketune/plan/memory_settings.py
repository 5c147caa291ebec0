"""The settings of a run that determine its memory."""

from dataclasses import dataclass
from typing import Any, Literal, cast

from snaketune.settings.adapter_section import AdapterSection
from snaketune.settings.training_slices import ModelTraining

CHECKPOINT_LEVELS = (0, 4, 2, 1)
"""Checkpointing intervals, from least to most recomputation; 0 recomputes nothing."""


@dataclass(frozen=True, slots=True)
class AdapterSetting:
    """The LoRA adapter of a run, in PEFT's words."""

    r: int = 16
    target_modules: str | tuple[str, ...] = "all-linear"
    lora_dropout: float = 0.0
    dtype: str = "float32"
    rank_pattern: tuple[tuple[str, int], ...] = ()
    use_dora: bool = False
    modules_to_save: tuple[str, ...] = ()
    target_parameters: str | tuple[str, ...] = ()
    trainable_token_indices: tuple[int, ...] = ()

    def section(self) -> AdapterSection:
        """Return the fields as the ``adapter`` section of the configuration has them."""
        modules, parameters = self.target_modules, self.target_parameters
        return {
            "r": self.r,
            "target_modules": "all-linear" if modules == "all-linear" else list(modules),
            "lora_dropout": self.lora_dropout,
            "rank_pattern": dict(self.rank_pattern),
            "use_dora": self.use_dora,
            "modules_to_save": list(self.modules_to_save),
            "target_parameters": "all-experts" if parameters == "all-experts" else list(parameters),
            "trainable_token_indices": list(self.trainable_token_indices),
        }


@dataclass(frozen=True, slots=True)
class MemorySetting:
    """The settings that determine a run's memory; ``adapter`` is None in full training."""

    row_length: int
    """Tokens in a packed row."""
    micro_batch: int = 1
    """Rows in one forward pass."""
    adapter: AdapterSetting | None = AdapterSetting()
    weight_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    autocast: Literal["", "bfloat16", "float16"] = "bfloat16"
    """Dtype of automatic mixed precision; empty when it is off."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    double_quantization: bool = True
    """Whether the scales of 4-bit weights are quantised as well."""
    optimizer: str = "adamw_torch_fused"
    steps_in_backward: bool = False
    """Whether each gradient is used and freed as soon as it is computed."""
    checkpoint_every: int = 0
    """One in this many layers is recomputed instead of kept: 0 none, 1 all."""
    shards: bool = False
    """Whether weights are sharded over several GPUs, which rules out 8-bit optimizer states and offloading."""
    offloads: bool = False
    """Whether activations are offloaded to RAM."""
    chunked_loss: bool = True
    scored: int | None = None
    """Tokens of a forward pass whose logits are computed; None for all."""
    attention: Literal["fused", "sdpa", "eager"] = "fused"
    """``fused``: kernels with document boundaries (FlashAttention, varlen); ``sdpa``: a mask over the whole row."""
    device: Literal["cuda", "cpu"] = "cuda"

    @property
    def tokens(self) -> int:
        """Return the tokens of one forward pass."""
        return self.row_length * self.micro_batch


def setting_of(cfg: ModelTraining, row_length: int, device: str, has_bf16: bool = True) -> MemorySetting:
    """Return the memory setting of a run's configuration on a device.

    ``auto`` means what it means in training: 16-bit weights and mixed precision on a GPU, float32 on a CPU and for
    weights that are trained themselves; a chunked loss; no recomputation (``choose_checkpointing`` decides).

    Args:
        cfg: the ``model``, ``adapter`` and ``train`` sections.
        row_length: tokens in a packed row.
        device: ``cuda`` or ``cpu``.
        has_bf16: whether the GPU computes in bfloat16.
    """
    model, adapter, train = cfg["model"], cfg["adapter"], cfg["train"]
    half: Any = "bfloat16" if has_bf16 else "float16"
    # A CPU has no fast 16-bit arithmetic, and weights that are trained themselves need float32 for small updates.
    cpu = device == "cpu"
    dtype = model.get("dtype", "auto")
    is_full = adapter.get("type", "lora") != "lora"
    mixed = train.get("bf16", "auto")
    autocast: Any = "float16" if train.get("fp16") else ("bfloat16" if mixed is True else "")
    if mixed == "auto" and not cpu and not train.get("fp16"):
        autocast = half
    checkpointing = train.get("gradient_checkpointing", False)
    return MemorySetting(
        row_length=row_length,
        micro_batch=train["per_device_train_batch_size"],
        adapter=None if is_full else _adapter_setting(adapter),
        weight_dtype=("float32" if cpu or is_full else half) if dtype == "auto" else dtype,
        autocast=autocast,
        quantization=model.get("quantization", "none"),
        optimizer=train.get("optim", "adamw_torch_fused"),
        steps_in_backward=train.get("optimizer_in_backward", False),
        checkpoint_every=train.get("checkpoint_every_n_layers", 1) if checkpointing is True else 0,
        shards=train.get("strategy", "single") not in ("single", "ddp"),
        offloads=train.get("activation_offloading", False) and not cpu,
        chunked_loss=train.get("chunked_loss", "auto") is not False,
        attention=_attention(model.get("attn_implementation", "auto")),
        device="cpu" if cpu else "cuda",
    )


def _adapter_setting(adapter: AdapterSection) -> AdapterSetting:
    modules, parameters = adapter["target_modules"], adapter.get("target_parameters") or ()
    dtype = adapter.get("dtype", "auto")
    return AdapterSetting(
        r=adapter["r"],
        target_modules=modules if isinstance(modules, str) else tuple(modules),
        lora_dropout=adapter.get("lora_dropout", 0.0),
        dtype="float32" if dtype == "auto" else dtype,
        rank_pattern=tuple(sorted((adapter.get("rank_pattern") or {}).items())),
        use_dora=bool(adapter.get("use_dora")),
        modules_to_save=tuple(adapter.get("modules_to_save") or ()),
        target_parameters=parameters if isinstance(parameters, str) else tuple(parameters),
        trainable_token_indices=tuple(cast(list[int], adapter.get("trainable_token_indices") or ())),
    )


def _attention(name: str) -> Literal["fused", "sdpa", "eager"]:
    if name in ("sdpa", "eager"):
        return "sdpa" if name == "sdpa" else "eager"
    return "fused"
