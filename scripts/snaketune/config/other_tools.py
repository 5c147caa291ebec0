"""Settings of other tools without a key here: what to use instead, or why they are not offered.

What is only called otherwise is in :mod:`snaketune.config.aliases`. The names are those of transformers'
TrainingArguments, PEFT's LoraConfig, TRL's SFTConfig and DPOConfig, axolotl, LLaMA-Factory and Unsloth. A sentence
names the feature first; a key that exists here is always taken before it.
"""

from snaketune.config.other_training_tools import OF_TRAINING, OWN_LAYOUT

_AT_HUB = "Upload a finished run to paths.publish with `snakemake publish`; training itself uploads nothing."
_BY_MASK = (
    "The loss covers only the answers (tokens.assistant_only_loss), and the mask is checked for exactness in every run."
)
_FIXED_LOADER = "Batch loading is fixed, so that a resumed training sees the same rows in the same order."
_STRATEGY = "Several GPUs are set by train.strategy (ddp, fsdp, deepspeed_zero2, deepspeed_zero3) and plan.num_gpus."
_DDP = f"{_STRATEGY} Communication settings follow from the strategy."
_TERMINAL = "Every logged step is in metrics.jsonl and on the terminal (train.logging_steps); see also train.report_to."
_EVALUATION = (
    "The model is evaluated after training as set in the evaluate section, and every train.eval_steps steps during "
    "training."
)

FEATURES: dict[str, str] = {
    # Data
    "data.max_samples": (
        "Limit the number of records with data.max_records, or max_records beside a path in data.sources."
    ),
    "train.max_samples": (
        "Limit the number of records with data.max_records, or max_records beside a path in data.sources."
    ),
    "max_train_samples": "Limit the number of records with data.max_records; split.test_size is taken from them.",
    "max_eval_samples": (
        "evaluate.max_samples limits how many held-out requests are answered; losses cover all of them."
    ),
    "num_samples": "Limit the number of records with data.max_records, or max_records beside a path in data.sources.",
    "dataset_dir": "List files by path in data.sources; there is no separate registry of data sets.",
    "dataset_text_field": "Name the column with plain text in data.columns: {text: your_column}.",
    "dataset_kwargs": (
        "data.columns, data.format and the keys beside a path in data.sources control how files are read."
    ),
    "dataset_num_proc": (
        "The data stages use as many processes as `snakemake --cores`; data.shards distributes them over machines."
    ),
    "preprocessing_num_workers": (
        "The data stages use as many processes as `snakemake --cores`; data.shards distributes them over machines."
    ),
    "dataset_prepared_path": (
        "Every stage caches its result below paths.results and reruns only when its input changes."
    ),
    "tokenized_path": (
        "Tokens are cached below paths.results and rebuilt only when data, template or tokenizer change."
    ),
    "overwrite_cache": "Stale results are never used: a stage reruns when its input, settings or code change.",
    "shuffle_dataset": "Rows are shuffled in every epoch by train.seed.",
    "shuffle_merged_datasets": "Rows of all sources are shuffled together in every epoch by train.seed.",
    "interleave_probs": "Set how often a source is seen with `weight` beside its path in data.sources.",
    "mix_strategy": "Set how often a source is seen with `weight` beside its path in data.sources.",
    "test_datasets": "To evaluate on separate files use evaluate.files.",
    "eval_dataset": "To evaluate on separate files use evaluate.files; split.test_size holds records out.",
    "streaming": "Data are not streamed: they are prepared once and memory-mapped, at any size.",
    "roles_to_train": _BY_MASK,
    "train_on_eos": "The end-of-answer token is always trained; a run in which it is not is refused.",
    "mask_history": f"{_BY_MASK} Exclude a turn with `weight: 0` in the data.",
    "train_on_responses_only": _BY_MASK,
    "remove_unused_columns": (
        "Unused columns are listed when the data are read; data.ignore leaves columns out on purpose."
    ),
    "label_names": _BY_MASK,
    "group_by_length": (
        "Rows are packed (tokens.packing), which leaves almost no padding, so grouping by length is unnecessary."
    ),
    "train_sampling_strategy": "Rows are shuffled in every epoch by train.seed; packing leaves no padding to group by.",
    "length_column_name": "The workflow counts lengths in tokens itself; packing uses them.",
    "padding_free": (
        "Packed rows (tokens.packing) hold no padding between documents, and attention never crosses documents."
    ),
    "packing_strategy": "tokens.packing packs whole documents, best fit first, and attention never crosses documents.",
    "eval_packing": "Held-out rows are packed like training rows; packing does not change the losses.",
    "pad_to_sequence_len": "Packed rows all have the same length; see tokens.packing.",
    "pad_token": "The padding token comes from the tokenizer; it is masked in loss and attention.",
    "eos_token": "The chat template writes the end of an answer; tokens.chat_template replaces the template.",
    "special_tokens": ("Add tokens to the tokenizer in the model folder; adapter.trainable_token_indices trains them."),
    "add_tokens": ("Add tokens to the tokenizer in the model folder; adapter.trainable_token_indices trains them."),
    "default_system_message": "data.system_prompt sets the system message of conversations without one.",
    # Saving, resuming, choosing
    "output_dir": OWN_LAYOUT,
    "overwrite_output_dir": OWN_LAYOUT,
    "logging_dir": OWN_LAYOUT,
    "run_name": "A run is named by its key under runs.",
    "save_strategy": (
        "train.save_steps sets when checkpoints are saved: a number, or auto for the least expected cost; "
        "train.save_total_limit sets how many are kept."
    ),
    "saves_per_epoch": (
        "train.save_steps sets when checkpoints are saved: a number, or auto for the least expected cost."
    ),
    "save_only_model": (
        "Checkpoints always hold everything an exact resume needs; the finished adapter holds only weights."
    ),
    "save_on_each_node": "Only the first process writes; results are on a file system shared by all nodes.",
    "save_safetensors": "Weights are always written as safetensors.",
    "enable_jit_checkpoint": (
        "SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint and exit; the same command resumes from it."
    ),
    "resume_from_checkpoint": "The same command resumes an interrupted training exactly; there is nothing to set.",
    "auto_resume_from_checkpoints": (
        "The same command resumes an interrupted training exactly; there is nothing to set."
    ),
    "ignore_data_skip": (
        "An interrupted training resumes exactly at the row where it stopped, without reading the earlier ones."
    ),
    "restore_callback_states_from_checkpoint": (
        "The same command resumes an interrupted training with all of its state."
    ),
    **OF_TRAINING,
    # Evaluation and logging
    "eval_strategy": _EVALUATION,
    "evaluation_strategy": _EVALUATION,
    "do_train": "The target on the command line selects what is done: train, plan, data, inspect.",
    "do_eval": _EVALUATION,
    "do_predict": _EVALUATION,
    "predict_with_generate": "Answers are generated after training and scored by evaluate.metrics.",
    "eval_delay": _EVALUATION,
    "eval_on_start": "The base model is always evaluated after training, next to the tuned one.",
    "evals_per_epoch": "train.eval_steps sets the steps between held-out losses during training.",
    "per_device_eval_batch_size": (
        "The batch size for losses follows from memory; evaluate.batch_size sets that for generated answers."
    ),
    "eval_sample_packing": "Held-out rows are packed like training rows; packing does not change the losses.",
    "prediction_loss_only": _EVALUATION,
    "compute_accuracy": "Token accuracy is one of evaluate.metrics.",
    "eval_do_concat_batches": _EVALUATION,
    "eval_use_gather_object": _EVALUATION,
    "eval_accumulation_steps": "Logits are computed in chunks and never kept.",
    "include_for_metrics": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
    "do_bench_eval": "Set benchmarks in evaluate.tasks (lm-evaluation-harness).",
    "lm_eval_tasks": "Set benchmarks in evaluate.tasks (lm-evaluation-harness).",
    "logging_strategy": _TERMINAL,
    "logging_first_step": _TERMINAL,
    "log_on_each_node": _TERMINAL,
    "logging_nan_inf_filter": "A non-finite loss is logged as such; if it persists, training stops.",
    "include_num_input_tokens_seen": "Tokens are always counted, without padding: `tokens` in metrics.jsonl.",
    "include_tokens_per_second": "Tokens per second are always measured: `tokens_per_second` in metrics.jsonl.",
    "log_level": "Logs of every stage are in logs/; the terminal shows only what matters.",
    "log_level_replica": "Logs of every stage are in logs/; the terminal shows only what matters.",
    "disable_tqdm": "Progress bars appear only on a terminal.",
    "plot_loss": "Every run's report has the curves.",
    "skip_memory_metrics": "Peak memory is always measured; it costs nothing.",
    "debug": "Every stage has a log in logs/.",
    **dict.fromkeys(
        (
            "project",
            "trackio_space_id",
            "trackio_bucket_id",
            "trackio_static_space_id",
            "wandb_project",
            "wandb_entity",
            "wandb_name",
            "wandb_run_id",
            "wandb_watch",
            "mlflow_tracking_uri",
            "use_wandb",
            "swanlab_project",
            "use_swanlab",
            "comet_project_name",
        ),
        "Set trackers in train.report_to (tensorboard, trackio, wandb); their own environment variables set the rest.",
    ),
    # Handing over
    **dict.fromkeys(
        (
            "push_to_hub",
            "hub_model_id",
            "hub_token",
            "hub_private_repo",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
            "push_dataset_to_hub",
            "hf_use_auth_token",
        ),
        _AT_HUB,
    ),
    # Machines
    "dataloader_drop_last": (
        "No row is dropped: the last batch of an epoch may be smaller, and each of its tokens has full weight."
    ),
    **dict.fromkeys(
        (
            "dataloader_persistent_workers",
            "dataloader_multiprocessing_context",
            "dataloader_in_order",
            "accelerator_config",
        ),
        _FIXED_LOADER,
    ),
    **dict.fromkeys(
        (
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_static_graph",
            "ddp_backend",
            "ddp_timeout",
        ),
        _DDP,
    ),
    **dict.fromkeys(
        (
            "fsdp",
            "fsdp_config",
            "fsdp_version",
            "deepspeed",
            "parallelism_config",
            "local_rank",
            "tensor_parallel_size",
            "context_parallel_size",
            "sequence_parallel_degree",
            "device_map",
            "max_memory",
        ),
        _STRATEGY,
    ),
    "gpu_memory_limit": (
        "Memory is planned: `snakemake plan` says on which devices and with which settings a run fits."
    ),
    "unsloth_offload": "train.activation_offloading keeps activations in host memory.",
    "low_cpu_mem_usage": "Weights are always memory-mapped from their files; there is nothing to set.",
}
