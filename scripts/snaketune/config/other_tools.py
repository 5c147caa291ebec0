"""Settings of other tools that have no key of their own here: what to use instead, or why they are not offered.

What is only called otherwise is in :mod:`snaketune.config.aliases`. The names are those of transformers'
TrainingArguments, PEFT's LoraConfig, TRL's SFTConfig and DPOConfig, axolotl, LLaMA-Factory and Unsloth. A sentence
names the feature first; a key that exists here is always taken before it.
"""

from snaketune.config.other_training_tools import OF_TRAINING, OWN_LAYOUT

_AT_HUB = "A finished run is handed over by `snakemake publish` to paths.publish; training uploads nothing by itself."
_BY_MASK = (
    "Only the answers are trained (tokens.assistant_only_loss), and the exactness of the mask is checked for every run."
)
_FIXED_LOADER = "How batches are loaded is fixed, so that a resumed training sees the same rows in the same order."
_STRATEGY = "Several GPUs are set by train.strategy (ddp, fsdp, deepspeed_zero2, deepspeed_zero3) and plan.num_gpus."
_DDP = f"{_STRATEGY} Details of the communication are chosen for it."
_TERMINAL = "Every logged step is in metrics.jsonl and on the terminal (train.logging_steps); see also train.report_to."
_EVALUATION = (
    "The model is evaluated after training as the evaluate section says, and on the way every train.eval_steps steps."
)

FEATURES: dict[str, str] = {
    # Data
    "data.max_samples": "A number of records is data.max_records, or max_records beside a path in data.sources.",
    "train.max_samples": "A number of records is data.max_records, or max_records beside a path in data.sources.",
    "max_train_samples": "A number of training records is data.max_records; split.test_size takes from them.",
    "max_eval_samples": "evaluate.max_samples is how many held-out requests are answered; losses are over all of them.",
    "num_samples": "A number of records is data.max_records, or max_records beside a path in data.sources.",
    "dataset_dir": "Files are named by data.sources, each with its path; there is no list of data sets beside them.",
    "dataset_text_field": "The column with plain text is named by data.columns: {text: your_column}.",
    "dataset_kwargs": "data.columns, data.format and the keys beside a path in data.sources say how files are read.",
    "dataset_num_proc": (
        "Processes of the data stages follow `snakemake --cores`; data.shards spreads them over machines."
    ),
    "preprocessing_num_workers": "Processes of the data stages follow `snakemake --cores`; data.shards spreads them.",
    "dataset_prepared_path": (
        "Every stage keeps its result below paths.results and is repeated only when its input changed."
    ),
    "tokenized_path": (
        "Tokens are kept below paths.results and made again only when data, template or tokenizer changed."
    ),
    "overwrite_cache": "Nothing stale is ever used: a stage is repeated when its input, settings or code changed.",
    "shuffle_dataset": "Rows are shuffled in every epoch by train.seed.",
    "shuffle_merged_datasets": "Rows are shuffled in every epoch by train.seed, whatever source they are from.",
    "interleave_probs": "How often sources are seen is set by `weight` beside their paths in data.sources.",
    "mix_strategy": "How often sources are seen is set by `weight` beside their paths in data.sources.",
    "test_datasets": "Evaluation on files of their own is evaluate.files.",
    "eval_dataset": "Evaluation on files of their own is evaluate.files; split.test_size holds records out.",
    "streaming": "Data are not streamed: they are prepared once and memory-mapped, whatever their size.",
    "roles_to_train": _BY_MASK,
    "train_on_eos": "The end of every answer is trained; a run in which it is not is refused.",
    "mask_history": f"{_BY_MASK} A turn is left out with `weight: 0` in the data.",
    "train_on_responses_only": _BY_MASK,
    "remove_unused_columns": (
        "Columns that are not used are listed when the data are read; data.ignore leaves them out on purpose."
    ),
    "label_names": _BY_MASK,
    "group_by_length": "Rows are packed (tokens.packing), which leaves next to no padding; nothing has to be grouped.",
    "train_sampling_strategy": "Rows are shuffled in every epoch by train.seed; packing leaves no padding to group by.",
    "length_column_name": "Lengths are counted in tokens by the workflow; packing uses them.",
    "padding_free": (
        "Packed rows (tokens.packing) hold no padding between documents, and documents do not see each other."
    ),
    "packing_strategy": "tokens.packing packs documents whole, best fit first, and none sees another.",
    "eval_packing": "Held-out rows are packed as training rows are; losses are the same with and without.",
    "pad_to_sequence_len": "Packed rows all have the same length; see tokens.packing.",
    "pad_token": "Padding is chosen from the tokenizer; it is in no loss and no attention.",
    "eos_token": "The end of an answer is what the chat template writes; tokens.chat_template replaces the template.",
    "special_tokens": (
        "Tokens of your own are in the tokenizer of the model folder; adapter.trainable_token_indices trains them."
    ),
    "add_tokens": (
        "Tokens of your own are in the tokenizer of the model folder; adapter.trainable_token_indices trains them."
    ),
    "default_system_message": "A system message for conversations without one is data.system_prompt.",
    # Saving, resuming, choosing
    "output_dir": OWN_LAYOUT,
    "overwrite_output_dir": OWN_LAYOUT,
    "logging_dir": OWN_LAYOUT,
    "run_name": "The name of a run is its key under runs.",
    "save_strategy": (
        "When progress is saved is train.save_steps: a number, or auto for what costs least; save_total_limit "
        "keeps some."
    ),
    "saves_per_epoch": "When progress is saved is train.save_steps: a number, or auto for what costs least.",
    "save_only_model": (
        "Checkpoints always hold all that an exact resumption needs; the finished adapter holds weights alone."
    ),
    "save_on_each_node": "Only the first process writes; the results are on a file system that all nodes see.",
    "save_safetensors": "Weights are always written as safetensors.",
    "enable_jit_checkpoint": "SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint and end; the same command goes on from it.",
    "resume_from_checkpoint": "An interrupted training is resumed by the same command, exactly; nothing has to be set.",
    "auto_resume_from_checkpoints": (
        "An interrupted training is resumed by the same command, exactly; nothing has to be set."
    ),
    "ignore_data_skip": (
        "An interrupted training is resumed exactly: at the row where it stopped, without reading the others."
    ),
    "restore_callback_states_from_checkpoint": (
        "An interrupted training is resumed by the same command, with all of its state."
    ),
    **OF_TRAINING,
    # Evaluation and logging
    "eval_strategy": _EVALUATION,
    "evaluation_strategy": _EVALUATION,
    "do_train": "What is done is the target of the command: train, plan, data, inspect.",
    "do_eval": _EVALUATION,
    "do_predict": _EVALUATION,
    "predict_with_generate": "Answers are generated after training and scored by evaluate.metrics.",
    "eval_delay": _EVALUATION,
    "eval_on_start": "The base model is always evaluated, after training, beside the tuned one.",
    "evals_per_epoch": "Held-out losses on the way are every train.eval_steps steps.",
    "per_device_eval_batch_size": (
        "Rows at a time of an evaluation follow from memory; evaluate.batch_size is that of answers."
    ),
    "eval_sample_packing": "Held-out rows are packed as training rows are; losses are the same with and without.",
    "prediction_loss_only": _EVALUATION,
    "compute_accuracy": "Token accuracy is one of evaluate.metrics.",
    "eval_do_concat_batches": _EVALUATION,
    "eval_use_gather_object": _EVALUATION,
    "eval_accumulation_steps": "Logits are scored in chunks and never kept.",
    "include_for_metrics": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
    "do_bench_eval": "Benchmarks are evaluate.tasks (lm-evaluation-harness).",
    "lm_eval_tasks": "Benchmarks are evaluate.tasks (lm-evaluation-harness).",
    "logging_strategy": _TERMINAL,
    "logging_first_step": _TERMINAL,
    "log_on_each_node": _TERMINAL,
    "logging_nan_inf_filter": "A loss that is not finite is logged as such and, when it stays so, ends the training.",
    "include_num_input_tokens_seen": "Tokens are always counted, padding aside: `tokens` in metrics.jsonl.",
    "include_tokens_per_second": "Tokens per second are always measured: `tokens_per_second` in metrics.jsonl.",
    "log_level": "Logs of every stage are in logs/; the terminal has the sentences that matter.",
    "log_level_replica": "Logs of every stage are in logs/; the terminal has the sentences that matter.",
    "disable_tqdm": "Progress bars appear on a terminal only.",
    "plot_loss": "The report of every run has the curves.",
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
        "Trackers are train.report_to (tensorboard, trackio, wandb); their own environment variables set the rest.",
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
        "No row is dropped: the last batch of an epoch may be smaller, and its tokens count in full."
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
    "gpu_memory_limit": "Memory is planned: `snakemake plan` says on which device a run fits, and with what.",
    "unsloth_offload": "Activations in the host's memory are train.activation_offloading.",
    "low_cpu_mem_usage": "Weights are mapped from their files; nothing has to be set.",
}
