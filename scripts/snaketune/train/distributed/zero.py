"""DeepSpeed's ZeRO: its configuration, sharding weights before a GPU would hold them all, and gathering them.

Stage 2 shards gradients and optimizer state over the processes, stage 3 the weights as well (Rajbhandari et al. 2020,
arXiv:1910.02054). Offloaded state is kept in RAM (Ren et al. 2021, arXiv:2101.06840) or in files
(Rajbhandari et al. 2021, arXiv:2104.07857) while it is not needed.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

ZERO_STAGES = {"deepspeed_zero2": 2, "deepspeed_zero3": 3}
BUFFERS = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
FROM_TRAINER = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def zero_settings(stage: int, offload: str, files: Path, pins: bool) -> dict[str, Any]:
    """Return DeepSpeed's configuration, in which ``auto`` takes the value of ``TrainingArguments``.

    Args:
        stage: of ZeRO, 2 or 3.
        offload: ``train.offload``.
        files: folder for state that is offloaded to files.
        pins: whether its RAM is page-locked, for asynchronous copies to a GPU.
    """
    # zero_force_ds_cpu_optimizer is off: torch's own fused AdamW updates offloaded moments in RAM, without a compiler.
    return {
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": True,
            "contiguous_gradients": True,
            # DeepSpeed's default buffers, 1 GB each, are larger than many adapters with gradients and moments.
            **dict.fromkeys(BUFFERS if stage == 3 else BUFFERS[:1], "auto"),
            **_offloading(stage, offload, files, pins),
        },
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        **dict.fromkeys(FROM_TRAINER, "auto"),
    }


def _offloading(stage: int, offload: str, files: Path, pins: bool) -> dict[str, Any]:
    if offload == "none":
        return {}
    place = {"device": offload, "pin_memory": pins, **({"nvme_path": str(files)} if offload == "nvme" else {})}
    # In stage 2 every GPU holds all weights all the time; only stage 3 can offload them.
    return {"offload_optimizer": place, **({"offload_param": place} if stage == 3 else {})}


def share_out(model: torch.nn.Module, arguments: TrainingArguments) -> None:
    """Shard the weights over the processes, one weight at a time, so that no GPU ever holds the whole model.

    The values are those of the first process; the other processes' weights need only have the same shapes.

    Args:
        model: in the memory of the first process; its weights are replaced by shards.
        arguments: hold DeepSpeed's configuration and the compute dtype.
    """
    import deepspeed

    dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
    for weight in model.parameters():
        if dtype and weight.is_floating_point():  # the optimizer keeps float32 master copies of trained weights
            weight.data = weight.data.to(dtype)
    for module in model.modules():
        # ZeRO shards parameters only; buffers such as rotary frequencies must be on the device before the first forward
        # pass.
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(arguments.device))
    assert isinstance(arguments.deepspeed, dict)
    known = {name: value for name, value in arguments.deepspeed["zero_optimization"].items() if value != "auto"}
    told = {"zero_optimization": known, FROM_TRAINER[1]: 1}
    deepspeed.zero.Init(module=model, config_dict_or_path=told, dtype=dtype or torch.float32)


def exact(weight: torch.Tensor) -> torch.Tensor:
    """Return the full float32 master weight from DeepSpeed's optimizer; a collective operation."""
    from deepspeed.utils import safe_get_full_fp32_param

    return safe_get_full_fp32_param(weight)
