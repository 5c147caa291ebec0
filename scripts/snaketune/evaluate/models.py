"""Loading a base model, its adapter or a merged model for inference."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer

from snaketune.core.errors import TrainingError
from snaketune.model.adapters.peft_names import names_as_given, read_config
from snaketune.model.weights import count_parameters, find_weight_files
from snaketune.settings.evaluation_slices import ModelUse
from snaketune.settings.model_section import ModelSection
from snaketune.settings.train_section import TrainSection
from snaketune.train.device import attention, has_usable_card
from snaketune.train.kernels.fused_layers import fuse_layers
from snaketune.train.loading.loading import open_model
from snaketune.train.packages import NONE

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILE, MODEL_CONFIG = "adapter_config.json", "config.json"
# Memory for inference besides weights: one chunk of logits, a batch of hidden states, a KV cache.
INFERENCE_MEMORY = 1.2


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Loading options of a model: dtype, attention kernel, CPU threads, trust in its own code, quantisation.

    ``scores`` loads it as a reward model, with the first weights of a new head unless it has one.
    """

    dtype: str = "auto"
    attn_implementation: str = "sdpa"
    cpu_threads: int = 1
    trust_remote_code: bool = False
    quantization: str = NONE
    scores: bool = False

    @classmethod
    def of_slice(cls, cfg: ModelUse) -> "ModelSettings":
        """Return the settings in a configuration slice, whose sections may be nested or flat."""
        model, train = cast(ModelSection, cfg.get("model", cfg)), cast(TrainSection, cfg.get("train", cfg))
        return cls(
            dtype=model.get("dtype", "auto"),
            attn_implementation=attention(model.get("attn_implementation", "auto")),
            cpu_threads=train.get("cpu_threads", 1),
            trust_remote_code=model.get("trust_remote_code", False),
            quantization=model.get("quantization", NONE),
        )

    @property
    def uses_flash(self) -> bool:
        """Whether attention runs in FlashAttention's kernels, which need explicit document boundaries."""
        return self.attn_implementation.startswith("flash")


def best_device() -> torch.device:
    """Return the device for inference: the GPU if there is one."""
    return torch.device("cuda" if has_usable_card() else "cpu")


def inference_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the dtype that a model computes in.

    On a CPU that is always float32: it holds every bfloat16 and float16 weight exactly, and 16-bit arithmetic is
    about a hundred times slower there. ``auto`` on a GPU is bfloat16 where the GPU has it.
    """
    if device.type == "cpu":
        return torch.float32
    if dtype == "auto":
        # Emulated bfloat16 (older cards) is slower than float32.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return getattr(torch, dtype)


def load_model(folder: str | Path, settings: ModelSettings, device: torch.device | None = None) -> Any:
    """Return the model in ``folder``, ready for reading, on ``device`` or on the best one.

    A model that does not fit the GPU is spread over GPU and RAM: after quantised training, the merged weights are
    several times as large as those in training.
    """
    torch.set_num_threads(settings.cpu_threads)
    device = device or best_device()
    dtype = inference_dtype(settings.dtype, device)
    kernel, trust, quantization = settings.attn_implementation, settings.trust_remote_code, settings.quantization
    if quantization != NONE:
        return open_model(folder, dtype, kernel, trust, quantization).eval()
    if device.type == "cuda" and not fits_gpu(folder, dtype):
        print(f"{Path(folder).name} does not fit in free GPU memory; part of it stays in CPU memory.", flush=True)
        return open_model(folder, dtype, kernel, trust, device_map="auto", scores=settings.scores).eval()
    model: Any = open_model(folder, dtype, kernel, trust, scores=settings.scores)
    return model.to(device).eval()


def fits_gpu(folder: str | Path, dtype: torch.dtype) -> bool:
    """Tell whether the GPU's free memory suffices for inference with the model in ``folder``."""
    size = count_parameters(find_weight_files(Path(folder))).parameters * dtype.itemsize
    # Free memory, not the card's total: other programs may use it.
    return INFERENCE_MEMORY * size < torch.cuda.mem_get_info()[0]


def load_tokenizer(folder: str | Path, settings: ModelSettings) -> Any:
    """Return the tokenizer in ``folder``."""
    return AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=settings.trust_remote_code
    )


def is_whole_model(folder: Path) -> bool:
    """Tell whether a training published a model instead of an adapter."""
    return (folder / MODEL_CONFIG).is_file() and not (folder / ADAPTER_FILE).is_file()


def attach_adapter(model: Any, folder: str | Path) -> PeftModel:
    """Return ``model`` with the adapter in ``folder``.

    Raises:
        TrainingError: if the adapter's tensors are not exactly those that the model expects. PEFT only warns and
            leaves the missing ones untrained, which would pass the base model off as the tuned one.
    """
    saved = adapter_tensor_names(folder)
    _refuse_other_vocabulary(model, folder)
    try:
        with names_as_given():
            tuned = PeftModel.from_pretrained(model, str(folder), config=read_config(folder)).eval()
    except (RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        found = lines[1].strip() if lines[0].endswith(":") and len(lines) > 1 else lines[0]  # torch puts a title first
        raise TrainingError(f"{folder}: the adapter does not match the base model ({found}): train it again.") from None
    expected = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    # Tensors that are missing, and LoRA tensors that are left over; PEFT may save further tensors, such as embeddings.
    strays = sorted(expected - saved) + sorted(name for name in saved - expected if "lora_" in name)
    if strays:
        raise TrainingError(
            f"{folder}/{ADAPTER_WEIGHTS}: {len(strays)} tensors do not belong to this model's adapter or are missing "
            f"from the file; the first is {strays[0]}: train the adapter again."
        )
    return tuned


def with_faster_layers(model: Any) -> Any:
    """Return ``model`` with fused layers if it is on a CPU: the same results in fewer passes over memory.

    To be called once, with the adapter on it, which may be switched off and on again afterwards.
    """
    if next(model.parameters()).device.type == "cpu" and not getattr(model, "is_quantized", False):
        fuse_layers(model)
    return model


def _refuse_other_vocabulary(model: Any, folder: str | Path) -> None:
    """Raise a TrainingError if whole embeddings in the adapter have other rows than those of the model."""
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    names = [name for name, module in model.named_modules() if any(module is layer for layer in layers)]
    rows = layers[0].weight.shape[0]
    with safe_open(Path(folder) / ADAPTER_WEIGHTS, "pt") as file:
        for key in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
            shape = file.get_slice(key).get_shape()
            if any(key.endswith(f".{name}.weight") for name in names) and shape[0] != rows:
                raise TrainingError(
                    f"{folder}: the adapter has {shape[0]} token embeddings and the base model {rows}: it was trained "
                    "with added tokens; set model.name_or_path to a model that has them and train again."
                )


def adapter_tensor_names(folder: str | Path) -> set[str]:
    """Return the names of the tensors in the adapter in ``folder``.

    Raises:
        TrainingError: if its weights are missing or unreadable.
    """
    path = Path(folder) / ADAPTER_WEIGHTS
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except (SafetensorError, FileNotFoundError) as error:
        raise TrainingError(f"{path} cannot be read ({error}): train the adapter again.") from None


def free_memory() -> None:
    """Give back what models that went out of scope held, before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
