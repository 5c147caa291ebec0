"""The train section of the configuration: Hugging Face's names and meanings."""

from typing import Literal

from pydantic import Field

from snaketune.config.schema_model import Section


class TrainConfig(Section):
    """How the adapter is trained."""

    method: Literal["sft"] = Field("sft", description="Supervised fine-tuning.")
    num_train_epochs: float = Field(1.0, gt=0, description="Passes over the training rows.")
    max_steps: int = Field(-1, ge=-1, description="Stop after this many optimizer steps; -1 trains all epochs.")
    per_device_train_batch_size: int = Field(4, ge=1, description="Rows in one forward pass.")
    gradient_accumulation_steps: int = Field(4, ge=1, description="Forward passes per optimizer step.")
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="Peak learning rate.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "cosine", description="Shape of the learning rate after warm-up."
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="Fraction of the steps in which the rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="Decay of the adapter's weights.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradients are clipped to this norm; 0 does not clip.")
    optim: Literal["adamw_torch_fused", "adamw_torch", "sgd", "adafactor"] = Field(
        "adamw_torch_fused", description="Optimizer."
    )
    bf16: bool | Literal["auto"] = Field("auto", description="bfloat16 autocast; `auto`: where the GPU has it.")
    fp16: bool = Field(False, description="float16 autocast, for GPUs without bfloat16.")
    tf32: bool | Literal["auto"] = Field(
        "auto", description="TF32 for float32 matrix products on GPUs that have it; it does not touch bf16 work."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations: less memory, about 50% more computing for LoRA."
    )
    torch_compile: bool = Field(
        False, description="Compile each layer; pays off in runs longer than about ten minutes."
    )
    dataloader_num_workers: int = Field(0, ge=0, description="Loader processes; memory-mapped rows need none.")
    dataloader_prefetch_factor: int | None = Field(None, ge=1, description="Batches each loader process prepares.")
    dataloader_pin_memory: bool = Field(True, description="Page-locked batches for faster copies to a GPU.")
    save_steps: int = Field(200, ge=1, description="Optimizer steps between checkpoints.")
    save_total_limit: int = Field(2, ge=1, description="Checkpoints that are kept.")
    eval_steps: int = Field(0, ge=0, description="Steps between held-out losses during training; 0 measures none.")
    logging_steps: int = Field(10, ge=1, description="Steps between lines in metrics.jsonl.")
    seed: int = Field(42, ge=0, description="Seed of the adapter's weights, dropout and row order.")
    cpu_threads: int = Field(
        2, ge=1, description="Threads of the arithmetic on a CPU. Another number can change the last bits."
    )
