"""A trained LoRA adapter: its contents, their validation, and its change of each weight."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file

from snaketune.core.errors import TrainingError
from snaketune.evaluate.models import ADAPTER_WEIGHTS
from snaketune.model.adapters.peft_names import read_config

ADAPTER_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
TRAIN_AGAIN = "train the adapter again"
PRODUCT_NUMBERS = 1 << 20  # of one product in float64

# LoRA options whose change is not just the product of two matrices; PEFT itself merges those.
BEYOND_PLAIN = (
    "use_dora",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "alora_invocation_tokens",
)


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter in memory: its configuration and its tensors by name, as saved."""

    folder: Path
    config: PeftConfig
    tensors: Mapping[str, torch.Tensor]

    @property
    def is_plain(self) -> bool:
        """Whether the adapter consists of two matrices per weight only."""
        options = any(getattr(self.config, name, None) for name in BEYOND_PLAIN)
        shaped = all(name.startswith(PEFT_PREFIX) and name.endswith((A, B)) for name in self.tensors)
        return isinstance(self.config, LoraConfig) and not options and shaped

    @property
    def modules(self) -> list[str]:
        """Names of the modules of the base model that a plain adapter changes, in order of the layers."""
        found = {name.removeprefix(PEFT_PREFIX).removesuffix(A).removesuffix(B) for name in self.tensors}
        return sorted(found, key=_layer_order)

    def factors(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A of shape [rank, in] and B of shape [out, rank], float32."""
        return tuple(self.tensors[f"{PEFT_PREFIX}{module}{end}"].float() for end in (A, B))  # type: ignore[return-value]

    def scale(self, module: str) -> float:
        """Return the factor of the product: alpha over the rank, or over its root for rank-stabilised LoRA."""
        config = self.config
        assert isinstance(config, LoraConfig)
        alpha = _of_pattern(config.alpha_pattern, module, config.lora_alpha)
        rank = self.factors(module)[0].shape[0]
        # Hu et al. 2021, arXiv:2106.09685; rank-stabilised: Kalajdzievski 2023, arXiv:2312.03732.
        return alpha / (math.sqrt(rank) if config.use_rslora else rank)

    def change(self, module: str) -> torch.Tensor:
        """Return what the adapter adds to the weight of ``module``: scale * B @ A, float32, shaped as stored.

        Computed in float64, some rows at a time: rounded to float32 the result hardly ever depends on the machine.
        """
        first, second = (factor.double() for factor in self.factors(module))
        product = torch.empty(len(second), first.shape[1])
        rows = max(1, PRODUCT_NUMBERS // first.shape[1])
        for start in range(0, len(second), rows):
            product[start : start + rows] = (second[start : start + rows] @ first) * self.scale(module)
        return product.T if getattr(self.config, "fan_in_fan_out", False) else product


def _of_pattern(pattern: dict[str, int] | None, module: str, default: int) -> int:
    pattern = pattern or {}
    return pattern.get(get_pattern_key(list(pattern), module), default)


def _layer_order(name: str) -> tuple[Any, ...]:
    # Layer 10 after layer 9, not after layer 1.
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in name.split("."))


def read_adapter(folder: str | Path) -> LoadedAdapter:
    """Return the adapter in ``folder`` after validating it.

    Raises:
        TrainingError: if its files cannot be read, a number in it is not finite, a name is that of a compiled model,
            its matrices do not pair up, or it changes nothing.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise TrainingError(f"{folder / ADAPTER_CONFIG} is missing: {TRAIN_AGAIN}.")
    try:
        adapter = LoadedAdapter(folder, read_config(folder), load_file(folder / ADAPTER_WEIGHTS))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(f"{folder}: the adapter cannot be read ({first}): {TRAIN_AGAIN}.") from None
    for name, tensor in adapter.tensors.items():
        _check_tensor(folder, name, tensor)
    # B starts at zero, so an adapter whose B matrices are all zero was never trained, or its training was lost.
    if not any(bool(tensor.any()) for name, tensor in adapter.tensors.items() if "lora_A" not in name):
        raise TrainingError(f"{folder}: every lora_B is zero, so the adapter changes nothing: {TRAIN_AGAIN}.")
    if adapter.is_plain:
        _check_pairs(adapter)
    return adapter


def _check_tensor(folder: Path, name: str, tensor: torch.Tensor) -> None:
    if "_orig_mod." in name:
        raise TrainingError(
            f"{folder}: {name} was saved from a compiled model and matches no base model: {TRAIN_AGAIN}."
        )
    if not bool(torch.isfinite(tensor).all()):
        raise TrainingError(
            f"{folder}: {name} contains non-finite numbers: training diverged; "
            f"lower train.learning_rate and {TRAIN_AGAIN}."
        )


def _check_pairs(adapter: LoadedAdapter) -> None:
    config = adapter.config
    assert isinstance(config, LoraConfig)
    for module in adapter.modules:
        found = [adapter.tensors.get(f"{PEFT_PREFIX}{module}{end}") for end in (A, B)]
        shapes = [list(tensor.shape) for tensor in found if tensor is not None]
        rank = _of_pattern(config.rank_pattern, module, config.r)
        if len(shapes) < 2 or len(shapes[0]) != 2 or not shapes[0][0] == shapes[1][-1] == rank:
            raise TrainingError(
                f"{adapter.folder}: {module} has matrices of shapes {shapes}, "
                f""
                f""
                f""
                f""
                f""
                f"not an A and a B of rank {rank}: {TRAIN_AGAIN}."
            )
