"""Loading the base model for training, in full, quantised, or empty where another process has its weights."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import PreTrainedModel
from transformers.utils import logging

from snaketune.core.errors import ConfigError
from snaketune.model.architecture import auto_class, read_configuration, support_of
from snaketune.model.reward_model import (
    has_reward_head,
    is_reward_configuration,
    reward_configuration,
    start_head,
)
from snaketune.settings.training_slices import TrainingSlice
from snaketune.train.device import Device, computing_dtype, is_sharded, weight_dtype
from snaketune.train.distributed.process_group import ProcessGroup
from snaketune.train.kernels.attention import training_attention
from snaketune.train.loading.quantization import keep_arithmetic, quantization_config
from snaketune.train.loading.unsupported_model import explaining_unfit_model
from snaketune.train.packages import NONE

# Layers of a proxy model: enough to include every kind of layer of hybrid models.
PROXY_LAYERS = 8


def load_base(folder: str | Path, cfg: TrainingSlice, device: Device) -> PreTrainedModel:
    """Load the prepared model in ``folder`` for training.

    It goes to the device or, if it is to be sharded, into the RAM of the first process alone, which distributes the
    shards: a model that no GPU could hold is read once, and no GPU ever holds it whole.

    Args:
        folder: a Hugging Face model folder.
        cfg: the ``train``, ``adapter`` and ``model`` sections of the configuration.
        device: where it goes; it decides the dtype of ``dtype: auto``.

    Raises:
        ConfigError: if the attention kernel or the quantisation is not available here.
    """
    model, quantization = cfg["model"], cfg["model"].get("quantization", NONE)
    trust, arithmetic = model["trust_remote_code"], computing_dtype(cfg, device)
    kernel = training_attention(model["attn_implementation"], device, arithmetic, folder, trust)
    if quantization != NONE and device.is_cpu:
        print(f"model.quantization: {quantization} on a CPU saves memory but no time, and loses precision.", flush=True)
    if is_sharded(cfg) and not ProcessGroup.of_environment().is_main_process:
        return empty_model(folder, base_dtype(cfg, device), kernel, trust)
    scores = cfg["train"]["method"] == "reward"
    loaded = open_model(folder, base_dtype(cfg, device), kernel, trust, quantization, scores=scores)
    if has_reward_head(loaded) and not scores:
        raise ConfigError(
            f"model.name_or_path: {type(loaded).__name__} gives scores and no text, so train.method:"
            f" {cfg['train']['method']} cannot train it: name a language model, or set train.method to reward."
        )
    return loaded if quantization != NONE or is_sharded(cfg) else torch.nn.Module.to(loaded, device.type)


def base_dtype(cfg: TrainingSlice, device: Device) -> torch.dtype:
    """Return the dtype of the weights in training.

    Weights in full training are float32 by default: with 8 bits of mantissa a bfloat16 weight does not change at all
    when an update is smaller than about 0.2% of it, as nearly all updates are.
    """
    setting = cfg["model"]["dtype"]
    is_full = cfg["adapter"]["type"] == "none"
    return torch.float32 if is_full and setting == "auto" else weight_dtype(setting, device)


def empty_model(folder: str | Path, dtype: torch.dtype, kernel: str, trust_remote_code: bool) -> PreTrainedModel:
    """Return the model in ``folder`` without reading its weights, which another process has.

    They are uninitialised memory, which takes no RAM until it is written to. Meta tensors would not do: accelerate
    identifies the optimizer's parameters by their address.
    """
    config = read_configuration(folder, trust_remote_code)
    with init_empty_weights(include_buffers=False):
        model = auto_class(config).from_config(
            config, dtype=dtype, attn_implementation=kernel, trust_remote_code=trust_remote_code
        )
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            module.register_parameter(name, torch.nn.Parameter(torch.empty_like(weight, device="cpu")))
    model.tie_weights()
    return model


def open_model(
    folder: str | Path,
    dtype: torch.dtype,
    kernel: str,
    trust_remote_code: bool,
    quantization: str = NONE,
    device_map: str | None = None,
    scores: bool = False,
) -> PreTrainedModel:
    """Return the causal language model in ``folder``, from safetensors only and without a network.

    Args:
        folder: a Hugging Face model folder.
        dtype: dtype of the weights and, if these are quantised, of their products.
        kernel: attention implementation.
        trust_remote_code: whether code that comes with the model may run.
        quantization: ``model.quantization``; a quantised model is on its device already.
        device_map: ``auto`` spreads the model over a GPU and the memory beside it.
        scores: load it as a reward model, with the first weights of a new head unless it has one.

    Raises:
        ConfigError: if the attention kernel or the quantisation is not available.
        DataError: if the files do not hold what the configuration describes.
        TrainingError: if transformers cannot load the model.
    """
    from snaketune.model.checkpoint_fit import check_loaded, without_report  # needs orjson, which the core does not

    _hush()
    quantized = quantization_config(quantization, dtype, folder)
    extra: dict[str, Any] = {"quantization_config": quantized} if quantized else {}
    config = read_configuration(folder, trust_remote_code)
    is_new_head = scores and not is_reward_configuration(config)
    if is_new_head:
        extra["config"] = config = reward_configuration(config, folder)
    is_plain = not quantized and not getattr(config, "quantization_config", None)
    # Evaluation requests sdpa, which some architectures lack; training has selected a supported kernel.
    kernel = "eager" if kernel == "sdpa" and not support_of(config).sdpa else kernel
    with (
        explaining_unfit_model(config.model_type, "cannot be loaded"),
        _explaining_missing_package(kernel),
        without_report(),
    ):
        model, found = auto_class(config).from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=kernel,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            device_map=device_map,
            output_loading_info=True,
            ignore_mismatched_sizes=is_plain,  # they are refused below, in a sentence
            **extra,
        )
    if is_new_head:
        start_head(model)
    if is_plain:
        check_loaded(Path(folder), model, found, is_new_head)
    keep_arithmetic(model)
    return model


def _hush() -> None:
    logging.disable_progress_bar()
    # Trainer and model code of one release warn about each other's deprecated names.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@contextmanager
def _explaining_missing_package(kernel: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(_missing_package(error, kernel)) from None


def _missing_package(error: ImportError, kernel: str) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if "attention" in reason.lower() or "flash" in reason.lower():
        return f"model.attn_implementation: {kernel} cannot be used here ({reason}): install it or set it to auto."
    return f"model.name_or_path: the model needs a package that is not installed ({reason}): install it in .venv."


def proxy_model_of(model: Any, device: Device) -> PreTrainedModel:
    """Return a model with the first layers' architecture, the kernel and the dtype of ``model``.

    Its weights are random; the state of the random generators is restored afterwards.

    Args:
        model: the model, under an adapter or not; its weights may be absent.
        device: where the new one goes.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = copy.deepcopy(base.config)
    text = config.get_text_config()
    text.num_hidden_layers = min(PROXY_LAYERS, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    # The proxy must not change what the training draws later.
    devices = [] if device.is_cpu else [torch.cuda.current_device()]
    with torch.random.fork_rng(devices), torch.device(device.type):
        # By its class, so that trust_remote_code is not asked again for code that runs already.
        small = type(base)._from_config(config, dtype=base.dtype, attn_implementation=config._attn_implementation)
    return small.eval()
