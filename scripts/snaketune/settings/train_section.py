"""The section `train` as stages get it. Generated from the configuration's models: run `make generate`."""

from typing import Literal, TypedDict


class DpoSection(TypedDict, total=False):
    """The loss of `train.method: dpo`."""

    beta: float
    loss_type: Literal["sigmoid", "ipo", "hinge"]
    label_smoothing: float


class OrpoSection(TypedDict, total=False):
    """The loss of `train.method: orpo`."""

    beta: float


class KtoSection(TypedDict, total=False):
    """The loss of `train.method: kto`."""

    beta: float
    desirable_weight: float
    undesirable_weight: float


class RewardSection(TypedDict, total=False):
    """The loss of `train.method: reward`; the name is TRL's."""

    center_rewards_coefficient: float | None
    margin_weight: float


class GrpoSection(TypedDict, total=False):
    """Sampling and rewards of `train.method: grpo`, by TRL; the names are TRL's."""

    rewards: list[str]
    reward_weights: list[float] | None
    reward_timeout: float
    max_reward_fall: float | None
    num_generations: int
    max_completion_length: int
    temperature: float
    top_p: float
    beta: float
    num_iterations: int
    use_vllm: bool
    vllm_mode: Literal["colocate", "server"]
    vllm_gpu_memory_utilization: float
    vllm_server_base_url: str | None


class TrainSection(TypedDict, total=False):
    """The keys of `train` that decide results; a slice has those its stage depends on."""

    method: Literal["sft", "dpo", "orpo", "kto", "reward", "grpo"]
    dpo: DpoSection
    orpo: OrpoSection
    kto: KtoSection
    reward: RewardSection
    grpo: GrpoSection
    num_train_epochs: float
    max_steps: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    optim: Literal[
        "adamw_torch_fused",
        "adamw_torch",
        "sgd",
        "adafactor",
        "adamw_8bit",
        "paged_adamw_8bit",
        "paged_adamw_32bit",
        "adamw_torch_8bit",
    ]
    optimizer_in_backward: bool
    bf16: bool | Literal["auto"]
    fp16: bool
    tf32: bool | Literal["auto"]
    gradient_checkpointing: bool | Literal["auto"]
    checkpoint_every_n_layers: int
    activation_offloading: bool
    torch_compile: bool | Literal["auto"]
    use_liger_kernel: bool | Literal["auto"]
    chunked_loss: bool | Literal["auto"]
    fp8: bool | Literal["rowwise"]
    eval_steps: int
    load_best_model_at_end: bool
    metric_for_best_model: str
    greater_is_better: bool | None
    early_stopping_patience: int | None
    early_stopping_threshold: float
    logging_steps: Literal["auto"] | int
    deterministic: bool
    seed: int
    cpu_threads: int
    strategy: Literal["single", "ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3"]
    offload: Literal["none", "cpu", "nvme"]
