"""The train section of the configuration: Hugging Face's names and meanings."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from snaketune.config.schema_model import Section, as_list


class DpoConfig(Section):
    """The loss of `train.method: dpo`."""

    beta: float = Field(
        0.1, gt=0, description="How strongly the model is kept near its start: higher values move it less."
    )
    loss_type: Literal["sigmoid", "ipo", "hinge"] = Field(
        "sigmoid",
        description="`sigmoid` is DPO itself; `ipo` targets a fixed margin per token and overfits less; `hinge` (SLiC) "
        "stops at a margin.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="With `sigmoid`: expected fraction of wrong preferences."
    )


class OrpoConfig(Section):
    """The loss of `train.method: orpo`."""

    beta: float = Field(
        0.1, gt=0, description="Weight of the odds ratio beside the likelihood of the chosen text; lambda in the paper."
    )


class KtoConfig(Section):
    """The loss of `train.method: kto`."""

    beta: float = Field(
        0.1, gt=0, description="How strongly the model is kept near its start: higher values move it less."
    )
    desirable_weight: float = Field(1.0, gt=0, description="Weight of the losses of good answers.")
    undesirable_weight: float = Field(
        1.0, gt=0, description="Weight of the losses of bad answers; raise it where they are few."
    )


class RewardConfig(Section):
    """The loss of `train.method: reward`; the name is TRL's."""

    center_rewards_coefficient: float | None = Field(
        None,
        gt=0,
        description="Weight of the squared sum of a pair's scores, which keeps scores around 0; TRL suggests 0.01, "
        "null leaves it out.",
    )
    margin_weight: float = Field(
        1.0,
        ge=0,
        description="Factor of the margins of pairs, which are in a column `margin` or in those that `data.columns` "
        "names as `margin`, or as `chosen_score` and `rejected_score`; 0 leaves them out.",
    )


class GrpoConfig(Section):
    """Sampling and rewards of `train.method: grpo`, by TRL; the names are TRL's."""

    rewards: Annotated[list[str], BeforeValidator(as_list), Field(min_length=1)] = Field(
        ["exact_match"],
        description="What answers are rewarded for, added up: `exact_match`, `numeric_match`, `json_equal` and "
        "`json_valid` against the reference answer (0 or 1), `length` (no longer than the reference is 1), "
        "`run:<name>`, the score by the reward model of a run with `train.method: reward`, or `file.py:function`, "
        "which takes lists of prompts, completions and references and returns a list of numbers.",
    )
    reward_weights: list[float] | None = Field(None, description="Weight of each reward; null weighs all 1.")
    reward_timeout: float = Field(60.0, gt=0, description="Seconds that one call of a reward may take.")
    max_reward_fall: float | None = Field(
        0.5,
        gt=0,
        description="Stop when the mean reward of five log lines is this far below the best such mean; with a reward "
        "model in deviations of the first rewards, if above 1. Null never stops.",
    )
    num_generations: int = Field(
        8, ge=2, description="Answers to each prompt; `per_device_train_batch_size` x accumulation is a multiple of it."
    )
    max_completion_length: int = Field(256, ge=1, description="Maximum length of an answer in tokens.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature; higher values explore more.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling: the probability mass to sample from.")
    beta: float = Field(
        0.0, ge=0, description="Weight of the KL divergence from the start; 0 computes none and saves a forward pass."
    )
    num_iterations: int = Field(1, ge=1, description="Optimizer steps on each batch of answers.")
    use_vllm: bool = Field(
        False, description="Generate with vLLM, which has to be installed beside TRL in a version that it accepts."
    )
    vllm_mode: Literal["colocate", "server"] = Field(
        "colocate",
        description="With `use_vllm`: `colocate` shares the GPU with training; `server` asks `trl vllm-serve`.",
    )
    vllm_gpu_memory_utilization: float = Field(
        0.3, gt=0, lt=1, description="With `vllm_mode: colocate`: the share of the GPU's memory that vLLM takes."
    )
    vllm_server_base_url: str | None = Field(
        None, description="With `vllm_mode: server`: its address, such as http://localhost:8000."
    )


class TrainConfig(Section):
    """How the adapter is trained."""

    method: Literal["sft", "dpo", "orpo", "kto", "reward", "grpo"] = Field(
        "sft",
        description="`sft`: learn the answers; `dpo`: learn to prefer the chosen answer of a pair to the rejected one; "
        "`orpo`: learn the chosen answer and to prefer it, in one run from a base model; `kto`: learn from single "
        "answers that are labelled good or bad, or from pairs; `reward`: a model that gives answers scores, from "
        "pairs; `grpo`: generate answers and learn from their rewards (extra `grpo`). See docs/methods.md.",
    )
    dpo: DpoConfig = DpoConfig()
    orpo: OrpoConfig = OrpoConfig()
    kto: KtoConfig = KtoConfig()
    reward: RewardConfig = RewardConfig()
    grpo: GrpoConfig = GrpoConfig()
    num_train_epochs: float = Field(1.0, gt=0, description="Passes over the training rows.")
    max_steps: int = Field(-1, ge=-1, description="Stop after this many optimizer steps; -1 trains all epochs.")
    per_device_train_batch_size: int = Field(4, ge=1, description="Rows in one forward pass.")
    gradient_accumulation_steps: int = Field(4, ge=1, description="Forward passes per optimizer step.")
    learning_rate: float = Field(
        2e-4,
        gt=0,
        lt=1,
        description="Peak learning rate; recommended with dpo, orpo and kto: 5e-5, or 5e-6 for full fine-tuning.",
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "cosine", description="Shape of the learning rate after warm-up."
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="Fraction of the steps in which the learning rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of the trained weights.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradients are clipped to this norm; 0 disables clipping.")
    optim: Literal[
        "adamw_torch_fused",
        "adamw_torch",
        "sgd",
        "adafactor",
        "adamw_8bit",
        "paged_adamw_8bit",
        "paged_adamw_32bit",
        "adamw_torch_8bit",
    ] = Field(
        "adamw_torch_fused",
        description="Optimizer. `adamw_8bit` stores its moments in a quarter of the memory, `paged_adamw_8bit` and "
        "`paged_adamw_32bit` also move them to RAM when GPU memory is full (all three: extra `quantization`); "
        "`adamw_torch_8bit` is torchao's (extra `float8`). Worthwhile for full fine-tuning.",
    )
    optimizer_in_backward: bool = Field(
        False,
        description="Update each weight as soon as its gradient is computed, so that the gradients are never all in "
        "memory: for full fine-tuning on one GPU. The steps are the same; needs gradient_accumulation_steps 1 and "
        "max_grad_norm 0.",
    )
    bf16: bool | Literal["auto"] = Field(
        "auto",
        description="bfloat16 autocast; `auto` uses it if the GPU supports it, and float16 with gradient scaling on "
        "older GPUs.",
    )
    fp16: bool = Field(False, description="float16 autocast, for GPUs without bfloat16.")
    tf32: bool | Literal["auto"] = Field(
        "auto", description="TF32 for float32 matrix products on GPUs that support it; bf16 computation is unaffected."
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="Recompute activations: less memory, about 50% more computation for LoRA if all layers are "
        "recomputed. `auto` recomputes as few layers as GPU memory requires, and none on a CPU.",
    )
    checkpoint_every_n_layers: int = Field(
        1, ge=1, description="With `gradient_checkpointing: true`: recompute every n-th layer only."
    )
    activation_offloading: bool = Field(
        False,
        description="Keep activations in pinned RAM until the backward pass: for rows too long for the GPU, best with "
        "`gradient_checkpointing: true`, which offloads only the inputs of layers. No effect on a CPU.",
    )
    torch_compile: bool | Literal["auto"] = Field(
        "auto",
        description="Compile each layer. `auto` compiles on a GPU if the run is expected to take ten minutes or more.",
    )
    use_liger_kernel: bool | Literal["auto"] = Field(
        "auto",
        description="Fused kernels of liger-kernel (extra `liger`) for norms, gates and rotary positions. `auto` uses "
        "them on a GPU if the package is installed, layers are not compiled and the model computes the same with them, "
        "which is checked at the start.",
    )
    chunked_loss: bool | Literal["auto"] = Field(
        "auto",
        description="Compute the loss in chunks of tokens without keeping full logits, so its memory does not grow "
        "with the batch. `auto` does so if it equals the model's own loss, which is checked at the start.",
    )
    fp8: bool | Literal["rowwise"] = Field(
        False,
        description="Frozen layers compute in float8, on Ada, Hopper and newer GPUs, with the package torchao. `true` "
        "uses one scale per tensor; `rowwise` one per row: more exact, slightly slower, Hopper and newer.",
    )
    dataloader_num_workers: int = Field(0, ge=0, description="Data loader processes; memory-mapped rows need none.")
    dataloader_prefetch_factor: int | None = Field(
        None, ge=1, description="Batches that each loader process prefetches."
    )
    dataloader_pin_memory: bool = Field(True, description="Page-locked batches for faster copies to a GPU.")
    save_steps: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Optimizer steps between checkpoints; `auto` measures the cost of one and derives the optimal "
        "interval.",
    )
    hours_between_interruptions: float = Field(
        24.0, gt=0, description="With `save_steps: auto`: expected time between failures or preemptions of the machine."
    )
    save_total_limit: int = Field(2, ge=1, description="Number of checkpoints to keep.")
    eval_steps: int = Field(0, ge=0, description="Steps between evaluations during training; 0 disables them.")
    load_best_model_at_end: bool = Field(
        False,
        description="Keep the weights of the best evaluation instead of the last ones; needs `eval_steps`. A "
        "checkpoint is written at each new best.",
    )
    metric_for_best_model: str = Field(
        "loss",
        description="Metric that compares evaluations during training: `loss`, with dpo and orpo "
        "also `preference_accuracy`, `reward_accuracy` or `reward_margin`, with kto `reward_margin`, with reward "
        "`reward_accuracy` or `reward_margin`; an `eval_` prefix is accepted.",
    )
    greater_is_better: bool | None = Field(
        None, description="Whether a greater value is better; null means yes unless the name ends with `loss`."
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        description="Stop after this many consecutive evaluations that improve on the best by no more than the "
        "threshold; null disables it. The last checkpoint is kept, or the best with `load_best_model_at_end`.",
    )
    early_stopping_threshold: float = Field(
        0.0, ge=0, description="Improvement on the best evaluation that resets the patience."
    )
    logging_steps: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Steps between lines in metrics.jsonl, in addition to the first and the last step; `auto` is a "
        "fiftieth of the run, at most 10.",
    )
    max_loss_increase: float | None = Field(
        2.0,
        gt=0,
        description="Stop when the mean loss of the last five log lines is this many nats above the best such mean; "
        "null disables it. A stopped run continues with a higher value.",
    )
    report_to: Annotated[list[Literal["tensorboard", "trackio", "wandb"]], BeforeValidator(as_list)] = Field(
        [], description="Also send the lines of metrics.jsonl to tensorboard, trackio or wandb, if installed."
    )
    deterministic: bool = Field(
        False,
        description="Use only kernels that are bit-reproducible on the same kind of GPU; slower, and a model with an "
        "operation that has no such kernel is refused. Not needed on a CPU.",
    )
    seed: int = Field(42, ge=0, description="Seed of the adapter's weights, dropout and row order.")
    cpu_threads: int = Field(
        2, ge=1, description="CPU threads for computation. Another number can change the last bits."
    )
    strategy: Literal["single", "ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3"] = Field(
        "single",
        description="`single`: one GPU; `ddp`: a full copy on each of `plan.num_gpus`; `fsdp`: weights sharded over "
        "them; `deepspeed_zero3`: the same by DeepSpeed, which is an extra; `deepspeed_zero2`: gradients and optimizer "
        "sharded, weights replicated. The batch grows with the number of GPUs.",
    )
    offload: Literal["none", "cpu", "nvme"] = Field(
        "none",
        description="With DeepSpeed: where the optimizer state and, with ZeRO-3, the weights are kept while unused: "
        "`cpu` is RAM, `nvme` files in `paths.scratch` (ZeRO-3 only). Slower; for models that fit no other way.",
    )
