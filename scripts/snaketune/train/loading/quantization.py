"""Base weights in 8 or 4 bits by bitsandbytes, frozen, for an adapter that is trained over them.

``4bit`` is QLoRA's format, nf4 with double quantisation (Dettmers et al. 2023, arXiv:2305.14314), ``8bit`` is
LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339). Both run on NVIDIA GPUs and, in bitsandbytes' CPU kernels, without
one. The layers that stay unquantised (norms, embeddings, output layer) keep the model's dtype: PEFT's
``prepare_model_for_kbit_training`` would turn them into float32, which costs two more bytes per embedding weight and
makes hidden states float32, that attention kernels refuse; frozen values gain nothing from it (TRL keeps them, too).
"""

from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PretrainedConfig

from snaketune.core.errors import ConfigError
from snaketune.train.packages import EIGHT, NONE, require_bitsandbytes


def quantization_config(setting: str, dtype: torch.dtype, folder: str | Path) -> BitsAndBytesConfig | None:
    """Return what transformers needs to load the model in ``folder`` quantised; None for ``none``.

    Args:
        setting: ``model.quantization``.
        dtype: dtype that the quantised weights are computed with.
        folder: the model, which has to be unquantised.

    Raises:
        ConfigError: if bitsandbytes is not installed or the model is quantised already.
    """
    if setting == NONE:
        return None
    require_bitsandbytes(setting)
    _refuse_quantised(setting, folder)
    if setting == EIGHT:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _refuse_quantised(setting: str, folder: str | Path) -> None:
    settings, _ = PretrainedConfig.get_config_dict(str(folder), local_files_only=True)
    if settings.get("quantization_config"):
        raise ConfigError(
            f"model.quantization: {setting} needs an unquantised model but model.name_or_path is already quantised:"
            " give the original model, or set model.quantization to none."
        )


def keep_arithmetic(model: Any) -> None:
    """Make a quantised model compute the same in evaluation as in training.

    On CPUs with AVX512-BF16 bitsandbytes permanently repacks 4-bit weights at the first forward pass in evaluation
    mode. Products with repacked weights have no gradient, so that training would continue without one.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
