"""DeepSpeed's ZeRO: what it is told, weights shared out before a GPU would hold them all, and gathered again.

Stage 2 splits gradients and optimizer over the processes, stage 3 the weights as well (Rajbhandari et al. 2020,
arXiv:1910.02054). What is offloaded lies in RAM (Ren et al. 2021, arXiv:2101.06840) or in files
(Rajbhandari et al. 2021, arXiv:2104.07857) while it is not needed.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

STAGES = {"deepspeed_zero2": 2, "deepspeed_zero3": 3}
BUFFERS = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
AUTOMATIC = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def zero_settings(stage: int, offload: str, files: Path, pins: bool) -> dict[str, Any]:
    """Return DeepSpeed's configuration, in which ``auto`` is what ``TrainingArguments`` says.

    Args:
        stage: of ZeRO, 2 or 3.
        offload: ``train.offload``.
        files: folder for what is offloaded to files.
        pins: whether RAM for it is page-locked, as copies to a GPU want it.
    """
    # Moments are computed where they are, by torch's own fused AdamW, which needs no compiler on the user's machine.
    return {
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": True,
            "contiguous_gradients": True,
            # The default buffers of 1 GB each are larger than many an adapter with all that belongs to it.
            **dict.fromkeys(BUFFERS if stage == 3 else BUFFERS[:1], "auto"),
            **_offloading(stage, offload, files, pins),
        },
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        **dict.fromkeys(AUTOMATIC, "auto"),
    }


def _offloading(stage: int, offload: str, files: Path, pins: bool) -> dict[str, Any]:
    if offload == "none":
        return {}
    place = {"device": offload, "pin_memory": pins, **({"nvme_path": str(files)} if offload == "nvme" else {})}
    # Weights whole on each GPU are all needed at any time.
    return {"offload_optimizer": place, **({"offload_param": place} if stage == 3 else {})}


def share_out(model: torch.nn.Module, arguments: TrainingArguments) -> None:
    """Cut every weight into one share for each process, one at a time: none of them ever holds the whole model.

    The weights are those of the first process; the others may have anything of the same shapes.

    Args:
        model: in the memory of the first process; its weights become shares.
        arguments: what DeepSpeed is told, and the dtype to compute in.
    """
    import deepspeed

    dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
    for weight in model.parameters():
        if dtype and weight.is_floating_point():  # exact weights of what is trained are kept by the optimizer
            weight.data = weight.data.to(dtype)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(arguments.device))
    assert isinstance(arguments.deepspeed, dict)
    known = {name: value for name, value in arguments.deepspeed["zero_optimization"].items() if value != "auto"}
    told = {"zero_optimization": known, AUTOMATIC[1]: 1}
    deepspeed.zero.Init(module=model, config_dict_or_path=told, dtype=dtype or torch.float32)


def exact(weight: torch.Tensor) -> torch.Tensor:
    """Return a trained weight as DeepSpeed's optimizer has it: whole and unrounded; every process takes part."""
    from deepspeed.utils import safe_get_full_fp32_param

    return safe_get_full_fp32_param(weight)
