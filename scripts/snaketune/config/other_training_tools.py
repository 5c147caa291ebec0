"""Settings of other tools for optimisation, adapters and preferences: what to use instead, or why not."""

OWN_LAYOUT = (
    "paths.results decides where everything is: each run has a folder of its own, named after its configuration."
)
_INIT = (
    "Other initialisations of LoRA are not offered; adapter.use_dora and adapter.use_rslora are the variants there are."
)
_RL = "Reinforcement learning is not offered; train.method is sft or dpo."

OF_TRAINING: dict[str, str] = {
    # Optimisation
    "warmup_steps": "Warm-up is train.warmup_ratio, a fraction of the steps.",
    "lr_scheduler_kwargs": "train.lr_scheduler_type chooses the schedule; its parameters are transformers' defaults.",
    "cosine_min_lr_ratio": "train.lr_scheduler_type chooses the schedule; its parameters are transformers' defaults.",
    "optim_args": "train.optim chooses the optimizer; its parameters are transformers' defaults.",
    "optim_target_modules": "GaLore and its kin are not offered: adapters (adapter.type) train in less memory.",
    "adam_beta1": "The moments of Adam decay as transformers sets them (0.9, 0.999).",
    "adam_beta2": "The moments of Adam decay as transformers sets them (0.9, 0.999).",
    "adam_epsilon": "The epsilon of Adam is transformers' (1e-8).",
    "embedding_lr": "There is one learning rate, train.learning_rate.",
    "loraplus_lr_ratio": "LoRA+ is not offered: there is one learning rate, train.learning_rate.",
    "use_galore": "GaLore is not offered: adapters (adapter.type) train in less memory.",
    "use_badam": "BAdam is not offered: adapters (adapter.type), or adapter.type: none for every weight.",
    "label_smoothing_factor": (
        "Label smoothing of the loss over tokens is not offered: the report compares plain losses. For pairs: "
        "train.dpo.label_smoothing."
    ),
    "neftune_noise_alpha": (
        "NEFTune (noise on the embeddings) is not offered: results on newer models do not repeat the published gain."
    ),
    "average_tokens_across_devices": "Losses are always averaged over tokens, across micro-batches and devices.",
    "auto_find_batch_size": "Rows at a time are planned from the memory of the device; plan.autotune measures others.",
    "torch_empty_cache_steps": (
        "Memory is planned and checked before training; emptying the cache would only slow it down."
    ),
    "full_determinism": "Reproducible kernels are train.deterministic.",
    "data_seed": "train.seed orders the rows; split.seed chooses what is held out.",
    "liger_fused_linear_cross_entropy": "The loss without whole logits is train.chunked_loss, which is on by default.",
    "cut_cross_entropy": "The loss without whole logits is train.chunked_loss, which is on by default.",
    "use_unsloth": (
        "Unsloth's patches are not offered; train.chunked_loss, torch_compile and packing are the same savings, "
        "checked for exactness."
    ),
    "use_gradient_checkpointing": (
        "Recomputation is train.gradient_checkpointing, with train.checkpoint_every_n_layers."
    ),
    "gradient_checkpointing_kwargs": (
        "Recomputation is train.gradient_checkpointing, with train.checkpoint_every_n_layers."
    ),
    "activation_checkpointing_kwargs": (
        "Recomputation is train.gradient_checkpointing, with train.checkpoint_every_n_layers."
    ),
    "disable_gradient_checkpointing": "Recomputation is train.gradient_checkpointing: false turns it off.",
    "torch_compile_backend": "train.torch_compile compiles layer by layer with torch's default backend.",
    "torch_compile_mode": "train.torch_compile compiles layer by layer in torch's default mode.",
    "bf16_full_eval": "Evaluation computes in the same dtype as training.",
    "fp16_full_eval": "Evaluation computes in the same dtype as training.",
    "use_cache": "Training keeps no cache of keys and values; generation does.",
    "use_cpu": "A machine without a GPU trains on its CPU; CUDA_VISIBLE_DEVICES= hides the GPUs of one that has some.",
    "no_cuda": "A machine without a GPU trains on its CPU; CUDA_VISIBLE_DEVICES= hides the GPUs of one that has some.",
    "model_init_kwargs": (
        "How the model is loaded is set in the model section: dtype, quantization, attn_implementation, revision."
    ),
    "overrides_of_model_config": (
        "A model's config.json is used as it is; a changed copy of the folder is another model."
    ),
    "rope_scaling": "A model's config.json is used as it is; put rope_scaling there, in a copy of the folder.",
    "router_aux_loss_coef": "The loss of routers is not trained: routers are left as they are.",
    "use_fast_tokenizer": "The tokenizer's own type is used.",
    "shift_attn": "LongLoRA's shifted attention is not offered.",
    "flash_attn_fuse_qkv": "Layers are fused where that is exact; nothing has to be set.",
    "xformers_attention": "Attention kernels are model.attn_implementation.",
    "sdp_attention": "Attention kernels are model.attn_implementation: sdpa.",
    "flex_attention": "Attention kernels are model.attn_implementation.",
    # Adapters
    "bias": "Biases are not trained beside LoRA; adapter.modules_to_save trains whole modules.",
    "lora_bias": "Biases are not trained beside LoRA; adapter.modules_to_save trains whole modules.",
    "fan_in_fan_out": "How weights are stored follows from the model's layers.",
    "exclude_modules": "adapter.target_modules lists what is trained; leave out the others.",
    "layers_to_transform": (
        "Single layers are not chosen by number: adapter.target_modules lists them by their names, in every block."
    ),
    "layers_pattern": (
        "Single layers are not chosen by number: adapter.target_modules lists them by their names, in every block."
    ),
    "layer_replication": "Layers are not replicated: another architecture is another model folder.",
    "ensure_weight_tying": "Tied weights stay tied unless a trained copy differs; the merge says so.",
    **dict.fromkeys(("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"), _INIT),
    **dict.fromkeys(("pissa_init", "pissa_iter", "pissa_convert", "use_qalora", "qalora_group_size"), _INIT),
    **dict.fromkeys(("velora_config", "monteclora_config", "use_bdlora", "arrow_config", "kasa_config"), _INIT),
    "alora_invocation_tokens": "Activated LoRA is not offered: a merged model could not be one.",
    "megatron_config": "Megatron is not offered: train.strategy shards over GPUs.",
    "megatron_core": "Megatron is not offered: train.strategy shards over GPUs.",
    "runtime_config": "Where an adapter's arithmetic runs follows from the device.",
    "freeze_trainable_layers": "Freezing layers is not offered: adapter.target_modules chooses what an adapter trains.",
    "unfrozen_parameters": (
        "Freezing is not offered: adapter.target_modules and adapter.modules_to_save choose what is trained."
    ),
    "relora": (
        "ReLoRA is not offered: a run can start from the merged model of another one (model.name_or_path: run:<name>)."
    ),
    "create_new_adapter": (
        "A run that names adapter.init_from goes on with that adapter; without it, it trains a new one."
    ),
    "merge_lora": "The adapter is merged after training (merge.enabled), and the merged model is checked.",
    "export_dir": f"The merged model is in the run's folder. {OWN_LAYOUT}",
    # Preferences
    "rl": _RL,
    "stage": "The method is train.method: sft or dpo.",
    "pref_loss": "The loss over preferences is train.dpo.loss_type.",
    "pref_beta": "The beta of DPO is train.dpo.beta.",
    "pref_ftx": (
        "A part of SFT loss beside DPO is not offered: train sft first and dpo from it (model.name_or_path: "
        "run:<name>)."
    ),
    "rpo_alpha": (
        "A part of SFT loss beside DPO is not offered: train sft first and dpo from it (model.name_or_path: "
        "run:<name>)."
    ),
    "loss_weights": "There is one loss over preferences, train.dpo.loss_type.",
    "disable_dropout": "Dropout is adapter.lora_dropout; the reference never has any.",
    "precompute_ref_log_probs": "The reference is always computed once, before training, and kept.",
    "precompute_ref_batch_size": "The reference is always computed once, before training, and kept.",
    "sync_ref_model": "The reference stays the base model; it is not moved while training.",
    "ref_model_mixup_alpha": "The reference stays the base model; it is not moved while training.",
    "ref_model_sync_steps": "The reference stays the base model; it is not moved while training.",
    "ref_model": "The reference is the model that training starts from.",
    **dict.fromkeys(
        ("ld_alpha", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "discopop_tau"),
        "Of the losses over preferences there are sigmoid, ipo and hinge: train.dpo.loss_type.",
    ),
}
