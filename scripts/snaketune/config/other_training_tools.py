"""Settings of other tools for optimisation, adapters and preferences: what to use instead, or why not."""

OWN_LAYOUT = "paths.results sets where results are: each run has its own folder, named after its configuration."
_INIT = (
    "Other initialisations of LoRA are not offered; adapter.use_dora and adapter.use_rslora are the available variants."
)
_RL = "Set the method with train.method: sft, dpo, orpo, kto or grpo."

OF_TRAINING: dict[str, str] = {
    # Optimisation
    "warmup_steps": "Set warm-up with train.warmup_ratio, a fraction of the steps.",
    "lr_scheduler_kwargs": "train.lr_scheduler_type chooses the schedule; its parameters are transformers' defaults.",
    "cosine_min_lr_ratio": "train.lr_scheduler_type chooses the schedule; its parameters are transformers' defaults.",
    "optim_args": "train.optim chooses the optimizer; its parameters are transformers' defaults.",
    "optim_target_modules": "GaLore and its variants are not offered: adapters (adapter.type) train in less memory.",
    "adam_beta1": "Adam's betas are transformers' defaults (0.9, 0.999).",
    "adam_beta2": "Adam's betas are transformers' defaults (0.9, 0.999).",
    "adam_epsilon": "Adam's epsilon is transformers' default (1e-8).",
    "embedding_lr": "There is a single learning rate, train.learning_rate.",
    "loraplus_lr_ratio": "LoRA+ is not offered: there is a single learning rate, train.learning_rate.",
    "use_galore": "GaLore is not offered: adapters (adapter.type) train in less memory.",
    "use_badam": "BAdam is not offered: adapters (adapter.type), or adapter.type: none for every weight.",
    "label_smoothing_factor": (
        "Label smoothing of the token loss is not offered: the report compares plain losses. For preference pairs use "
        "train.dpo.label_smoothing."
    ),
    "neftune_noise_alpha": (
        "NEFTune (noise on the embeddings) is not offered: the published gain is not reproduced on newer models."
    ),
    "average_tokens_across_devices": "Losses are always averaged over tokens, across micro-batches and devices.",
    "auto_find_batch_size": (
        "The micro-batch is planned from the memory of the device; plan.autotune measures other sizes."
    ),
    "torch_empty_cache_steps": (
        "Memory is planned and checked before training; emptying the cache would only slow training down."
    ),
    "full_determinism": "train.deterministic selects reproducible kernels.",
    "data_seed": "train.seed orders the rows; split.seed chooses what is held out.",
    "liger_fused_linear_cross_entropy": (
        "train.chunked_loss computes the loss without full logits; it is on by default."
    ),
    "cut_cross_entropy": "train.chunked_loss computes the loss without full logits; it is on by default.",
    "use_unsloth": (
        "Unsloth's patches are not offered; train.chunked_loss, train.torch_compile and tokens.packing save the same, "
        "and are checked for exactness."
    ),
    "use_gradient_checkpointing": (
        "Set activation recomputation with train.gradient_checkpointing and train.checkpoint_every_n_layers."
    ),
    "gradient_checkpointing_kwargs": (
        "Set activation recomputation with train.gradient_checkpointing and train.checkpoint_every_n_layers."
    ),
    "activation_checkpointing_kwargs": (
        "Set activation recomputation with train.gradient_checkpointing and train.checkpoint_every_n_layers."
    ),
    "disable_gradient_checkpointing": "Activation recomputation is train.gradient_checkpointing: false turns it off.",
    "torch_compile_backend": "train.torch_compile compiles layer by layer with torch's default backend.",
    "torch_compile_mode": "train.torch_compile compiles layer by layer in torch's default mode.",
    "bf16_full_eval": "Evaluation runs in the same dtype as training.",
    "fp16_full_eval": "Evaluation runs in the same dtype as training.",
    "use_cache": "Training keeps no KV cache; generation does.",
    "use_cpu": "A machine without a GPU trains on its CPU; set CUDA_VISIBLE_DEVICES= to hide GPUs.",
    "no_cuda": "A machine without a GPU trains on its CPU; set CUDA_VISIBLE_DEVICES= to hide GPUs.",
    "model_init_kwargs": (
        "How the model is loaded is set in the model section: dtype, quantization, attn_implementation, revision."
    ),
    "overrides_of_model_config": (
        "A model's config.json is used unchanged; a modified copy of the folder is a different model."
    ),
    "rope_scaling": "A model's config.json is used unchanged; set rope_scaling in a copy of the folder.",
    "router_aux_loss_coef": "There is no router loss: routers are not trained.",
    "use_fast_tokenizer": "The tokenizer's own type is used.",
    "shift_attn": "LongLoRA's shifted attention is not offered.",
    "flash_attn_fuse_qkv": "Layers are fused where that is exact; there is nothing to set.",
    "xformers_attention": "Set the attention kernel with model.attn_implementation.",
    "sdp_attention": "Set the attention kernel with model.attn_implementation: sdpa.",
    "flex_attention": "Set the attention kernel with model.attn_implementation.",
    # Adapters
    "bias": "Biases are not trained with LoRA; adapter.modules_to_save trains whole modules.",
    "lora_bias": "Biases are not trained with LoRA; adapter.modules_to_save trains whole modules.",
    "fan_in_fan_out": "The weight layout follows from the model's layers.",
    "exclude_modules": "adapter.target_modules lists the trained layers; leave out the others.",
    "layers_to_transform": (
        "Layers cannot be chosen by index: adapter.target_modules lists layer names, which apply to every block."
    ),
    "layers_pattern": (
        "Layers cannot be chosen by index: adapter.target_modules lists layer names, which apply to every block."
    ),
    "layer_replication": "Layers are not replicated: use a model folder with the other architecture.",
    "ensure_weight_tying": "Tied weights stay tied unless a trained copy differs, which the merge reports.",
    **dict.fromkeys(("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"), _INIT),
    **dict.fromkeys(("pissa_init", "pissa_iter", "pissa_convert", "use_qalora", "qalora_group_size"), _INIT),
    **dict.fromkeys(("velora_config", "monteclora_config", "use_bdlora", "arrow_config", "kasa_config"), _INIT),
    "alora_invocation_tokens": "Activated LoRA is not offered: it cannot be merged.",
    "megatron_config": "Megatron is not offered: set train.strategy to shard over GPUs.",
    "megatron_core": "Megatron is not offered: set train.strategy to shard over GPUs.",
    "runtime_config": "The device of the adapter's computation follows from the model.",
    "freeze_trainable_layers": (
        "Freezing layers is not offered: adapter.target_modules selects the layers that get an adapter."
    ),
    "unfrozen_parameters": (
        "Freezing is not offered: adapter.target_modules and adapter.modules_to_save select what is trained."
    ),
    "relora": (
        "ReLoRA is not offered: a run can start from the merged model of another run (model.name_or_path: run:<name>)."
    ),
    "create_new_adapter": (
        "A run with adapter.init_from continues training that adapter; without it, it trains a new one."
    ),
    "merge_lora": "The adapter is merged after training (merge.enabled), and the merged model is checked.",
    "export_dir": f"The merged model is in the run's folder. {OWN_LAYOUT}",
    # Preferences
    "rl": _RL,
    "stage": _RL,
    "pref_loss": "Set the preference loss with train.dpo.loss_type.",
    "pref_beta": "Set beta in the method's own section, for example train.dpo.beta.",
    "kto_chosen_weight": "Set the weight of good answers with train.kto.desirable_weight.",
    "kto_rejected_weight": "Set the weight of bad answers with train.kto.undesirable_weight.",
    "desirable_weight": "Set the weight of good answers with train.kto.desirable_weight.",
    "undesirable_weight": "Set the weight of bad answers with train.kto.undesirable_weight.",
    "pref_ftx": (
        "An SFT term in the DPO loss is not offered: train with sft first, then with dpo from that run "
        "(model.name_or_path: run:<name>)."
    ),
    "rpo_alpha": (
        "An SFT term in the DPO loss is not offered: train with sft first, then with dpo from that run "
        "(model.name_or_path: run:<name>)."
    ),
    "loss_weights": "There is a single preference loss, train.dpo.loss_type.",
    "disable_dropout": "Set dropout with adapter.lora_dropout; the reference model never uses dropout.",
    "precompute_ref_log_probs": "Reference log-probabilities are always computed once, before training, and cached.",
    "precompute_ref_batch_size": "Reference log-probabilities are always computed once, before training, and cached.",
    "sync_ref_model": "The reference stays the base model; it is not updated during training.",
    "ref_model_mixup_alpha": "The reference stays the base model; it is not updated during training.",
    "ref_model_sync_steps": "The reference stays the base model; it is not updated during training.",
    "ref_model": "The reference is the model that training starts from.",
    **dict.fromkeys(
        ("ld_alpha", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "discopop_tau"),
        "The preference losses are sigmoid, ipo and hinge: train.dpo.loss_type.",
    ),
}
