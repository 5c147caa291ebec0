"""Peak memory of a training run by part, estimated before any of it is allocated.

Parts and their sources:

- weights: 4 or 2 bytes per parameter; quantised matrices of the layers 1 byte and a float32 scale per output row
  (LLM.int8), or half a byte, an 8-bit scale per 64 values and a float32 per 256 scales (QLoRA, arXiv 2305.14314,
  double quantisation). Embeddings, head, norms and experts stay in 16 bit: bitsandbytes only replaces linear layers.
- gradients and optimizer: per trained parameter, as torch, bitsandbytes, torchao and transformers allocate them.
  Gradients are counted in full, as accumulation keeps them; with steps in the backward pass, only the largest one.
- activations and workspace: traced (see ``tracing``); with offloading, the copies in flight.
- head: with a chunked loss the logits of one chunk, 8 bytes each (bf16 logits, float32 log-softmax, bf16 gradient) or
  4 in float32 (the gradient overwrites the logits), a copy of the last hidden state and its gradient and, if the head
  is trained, its gradient in float32; otherwise 16 bytes per logit of the batch (bf16 logits, float32 copy,
  log-softmax, float32 and bf16 gradients).
- context: memory of the process besides tensors: CUDA's kernels and libraries, or Python and its libraries.

Gigabytes are 10⁹ bytes throughout.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from snaketune.core.errors import PlanError
from snaketune.core.gpus import GPU_CONTEXT_BYTES
from snaketune.plan.cache import remembered
from snaketune.plan.flops import recomputed_layers
from snaketune.plan.memory.counting import (
    ParameterCounts,
    TextSizes,
    count_config_parameters,
    lora_parameters,
    refuse_experts,
    text_sizes,
)
from snaketune.plan.memory.tracing import Trace, trace_step
from snaketune.plan.memory.unknown import unknown_instead
from snaketune.plan.memory_settings import AdapterSetting, MemorySetting

GB = 1e9
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
LOGITS_BY_DEVICE = {"cuda": 1 << 26, "cpu": 8_000_000}
"""Logits that the chunked loss holds at a time (``train/kernels/chunked_cross_entropy.py``)."""
OFFLOADED_AT_ONCE = 1 << 29
"""Bytes of offloaded activations in flight at a time, in each direction (``kernels/offloading.py``)."""
CONTEXT_GB = {"cuda": GPU_CONTEXT_BYTES / 1e9, "cpu": 0.55}
"""What a process holds besides. On a CPU 0.51 GB after the imports of a training and 0.53 GB beside the weights of
SmolLM2 when they are loaded (measured), and some kernels of oneDNN after that (assumed)."""
HEAP_SHARE = {"cuda": 1.0, "cpu": 1.1}
"""Heap bytes per byte of activations: glibc leaves gaps between aligned blocks that it cannot reuse (measured with
SmolLM2 at micro-batches of 980 to 2,048 tokens: 0.20 to 0.24 GB of heap for 0.217 GB of tensors per 256 tokens)."""
NF4_BYTES = {True: 0.5 + 1 / 64 + 4 / (64 * 256), False: 0.5 + 4 / 64}
STATE_VALUES = {"adamw_torch_fused": 2, "adamw_torch": 2, "sgd": 0, "adafactor": 0}
"""Optimizers whose state has the parameters' dtype, with the values per parameter; adafactor's two vectors
per matrix are left out."""
BYTE_STATES = {"adamw_8bit": 2 + 8 / 256, "adamw_torch_8bit": 2 + 8 / 256}
"""Optimizers with two states of a byte per parameter and a float32 scale for each block of 256."""
PAGED_STATES = ("paged_adamw_8bit", "paged_adamw_32bit")
"""Optimizers whose state can leave the GPU."""
EMBEDDING_STATES = 8
"""Bytes per trained embedding value: transformers has bitsandbytes keep two float32 states for these."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Peak memory of a run in GB (10⁹ bytes), of the GPU or, on a CPU, of RAM; every part is estimated."""

    weights: float
    """The base model."""
    adapter: float
    """The adapter's weights."""
    gradients: float
    optimizer: float
    activations: float
    """Kept from the forward to the backward pass."""
    head: float
    """Logits and their gradients."""
    workspace: float
    """Peak of temporary tensors in the backward pass beyond activations and head."""
    context: float
    """Memory of the process besides tensors."""
    cache: float = 0.0
    """Keys and values of generated answers beyond what training takes at another time."""
    device: str = "cuda"
    origin: str = "estimated"

    @property
    def parts(self) -> dict[str, float]:
        """Return the parts by name, in GB."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}

    @property
    def total(self) -> float:
        """Return the peak of the whole process in GB, what ``nvidia-smi`` shows."""
        return sum(self.parts.values())

    @property
    def allocated(self) -> float:
        """Return the peak of tensors in GB, what ``torch.cuda.max_memory_allocated`` shows."""
        return self.total - self.context

    def describe(self) -> str:
        """Return one line with the total and the parts, largest first."""
        parts = sorted(self.parts.items(), key=lambda part: -part[1])
        listed = ", ".join(f"{name} {value:.1f}" for name, value in parts if value >= 0.05)
        where = "RAM" if self.device == "cpu" else "GPU memory"
        return f"{self.total:.1f} GB of {where} ({self.origin}): {listed}"


def memory_plan(config: Any, setting: MemorySetting) -> MemoryPlan:
    """Return the peak memory of training the model of ``config`` with these settings.

    Args:
        config: a ``PreTrainedConfig`` of transformers.
        setting: the run.

    Raises:
        PlanError: if the architecture or the optimizer cannot be planned.
        ConfigError: if the adapter does not fit the model.
    """
    counts = count_config_parameters(config)
    refuse_experts(config, counts)
    with unknown_instead(config, "memory"):
        return _memory_plan(config, counts, setting)


def _memory_plan(config: Any, counts: ParameterCounts, setting: MemorySetting) -> MemoryPlan:
    trained, width = _trained(config, counts, setting)
    held = _largest_tensor(counts) if setting.steps_in_backward and not setting.adapter else trained
    kept, transient = _activations(config, setting)
    # Copies in flight to and from RAM; everything else that is kept is not on the GPU.
    kept = min(kept, 2 * OFFLOADED_AT_ONCE) if setting.offloads else kept
    kept *= HEAP_SHARE[setting.device]
    sizes = text_sizes(config)
    head = _head_bytes(sizes, setting)
    return MemoryPlan(
        weights=_weight_bytes(counts, sizes.hidden, setting) / GB,
        adapter=(trained * width if setting.adapter else 0.0) / GB,
        gradients=held * width / GB,
        optimizer=_optimizer_bytes(trained, counts, setting, width) / GB,
        activations=kept / GB,
        head=head / GB,
        # The head's buffers are freed before the layers' backward pass reaches its peak, so the two do not add up.
        workspace=max(transient - head, 0) / GB,
        context=CONTEXT_GB[setting.device],
        device=setting.device,
    )


def _trained(config: Any, counts: ParameterCounts, setting: MemorySetting) -> tuple[int, int]:
    """Return the number of trained parameters and their bytes each."""
    if setting.adapter is None:
        return counts.total, DTYPE_BYTES[setting.weight_dtype]
    return adapter_parameters(config, setting.adapter), DTYPE_BYTES[setting.adapter.dtype]


@remembered
def adapter_parameters(config: Any, adapter: AdapterSetting) -> int:
    """Return the number of trainable parameters of an adapter, see ``lora_parameters``."""
    return lora_parameters(config, adapter.section())


def _weight_bytes(counts: ParameterCounts, hidden: int, setting: MemorySetting) -> float:
    width = DTYPE_BYTES[setting.weight_dtype]
    # LLM.int8 stores a float32 scale per row of the matrix (4 bytes / width). NF4 stores half a byte per value and a
    # float32 scale per block of 64; double quantisation makes it an 8-bit scale, with a float32 per 256 of them.
    per_entry = {"none": width, "8bit": 1 + 4 / hidden, "4bit": NF4_BYTES[setting.double_quantization]}[
        setting.quantization
    ]
    return counts.linear * per_entry + (counts.total - counts.linear) * width


def _largest_tensor(counts: ParameterCounts) -> int:
    """Return the values of the largest weight, which in language models is the embedding or the output layer."""
    return max(counts.embedding, counts.head)


def _optimizer_bytes(trained: int, counts: ParameterCounts, setting: MemorySetting, width: int) -> float:
    """Return the bytes of the optimizer's state on the GPU.

    Raises:
        PlanError: if the optimizer is unknown.
    """
    optimizer = setting.optimizer
    if optimizer in PAGED_STATES:
        return 0
    if optimizer in BYTE_STATES:
        is_exempt = optimizer == "adamw_8bit" and setting.adapter is None
        # Only with full training are embeddings trained; transformers registers 32-bit states for them with
        # bitsandbytes.
        exempt = counts.embedding if is_exempt else 0
        return (trained - exempt) * BYTE_STATES[optimizer] + exempt * EMBEDDING_STATES
    if optimizer not in STATE_VALUES:
        known = ", ".join(sorted([*STATE_VALUES, *BYTE_STATES, *PAGED_STATES]))
        raise PlanError(f"train.optim: the memory of {optimizer} is not known to the plan: use one of {known}.")
    # Adam keeps a first and a second moment for each trained value, in its dtype.
    return trained * STATE_VALUES[optimizer] * width


def _head_bytes(sizes: TextSizes, setting: MemorySetting) -> float:
    # 16 bytes per logit for the full loss, 8 or 4 for those of a chunk: see the module's docstring for the tensors. The
    # chunked loss also holds the hidden states with their gradient, and the float32 gradient of a trained head.
    if not setting.chunked_loss:
        return 16 * (setting.tokens if setting.scored is None else setting.scored) * sizes.vocabulary
    logits = min(LOGITS_BY_DEVICE[setting.device], setting.tokens * sizes.vocabulary)
    states = 2 * setting.tokens * sizes.hidden * DTYPE_BYTES[setting.weight_dtype]
    gradient = 0 if setting.adapter else 4 * sizes.vocabulary * sizes.hidden
    per_logit = 4 if setting.weight_dtype == "float32" and not setting.autocast else 8
    return per_logit * logits + states + gradient


def _activations(config: Any, setting: MemorySetting) -> tuple[float, float]:
    """Return the bytes kept between forward and backward, and the most on top of them in the backward pass."""
    every, layers = setting.checkpoint_every, text_sizes(config).layers
    if every in (0, 1):
        trace = trace_step(config, setting)
        return trace.kept, trace.transient
    kept_all = trace_step(config, replace(setting, checkpoint_every=0))
    kept_none = trace_step(config, replace(setting, checkpoint_every=1))
    return _between(kept_all, kept_none, layers, every)


def _between(kept_all: Trace, kept_none: Trace, layers: int, every: int) -> tuple[float, float]:
    """Interpolate both figures for every n-th layer recomputed, from those for none and for all."""
    saved_per_layer = (kept_all.kept - kept_none.kept) / layers
    kept = kept_all.kept - saved_per_layer * recomputed_layers(layers, every)
    # The backward pass has freed the stored layers after the last recomputed one before it recomputes that.
    freed = saved_per_layer * ((layers - 1) % every)
    return kept, max(kept_all.transient, kept_none.transient - freed)
