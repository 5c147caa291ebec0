"""The table of stages: a row for each, read by all code that treats stages alike.

Ids and slices, paths of results, `--until`, the terminal's lines, the history in the report, records of what jobs wrote
and requests to a cluster all come from here, so that a stage is added with a row, a rule and a script. The table is
data: it imports only the form of a row (``stage``), and the terminal and the report may read it.
"""

from typing import Any

from snaketune.workflow.stage import ResourceNeed, Scope, ShardRule, Stage, after


def _tokenizer_parents(config: Any) -> tuple[str, ...]:
    learns_from_data = config.model.name_or_path == "tiny" and config.model.tiny.corpus == "data"
    return ("split_records",) if learns_from_data else ()


READING_KEYS = ("data.columns", "data.ignore", "data.roles", "data.strip", "data.system_prompt")
LOADING_KEYS = ("model.dtype", "model.quantization", "model.attn_implementation", "model.trust_remote_code")
# What of training its plan depends on: how much work it is, and what decides its speed and its memory.
PLANNED_OF_TRAINING = (
    "method",
    "grpo.num_generations",
    "strategy",
    "offload",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "optimizer_in_backward",
    "bf16",
    "fp16",
    "fp8",
    "gradient_checkpointing",
    "checkpoint_every_n_layers",
    "activation_offloading",
    "use_liger_kernel",
    "torch_compile",
    "chunked_loss",
    "eval_steps",
    "early_stopping_patience",
    "cpu_threads",
)

# In the order in which the workflow does them.
TABLE = (
    Stage(
        "stage_sources",
        "data",
        keys=("data.sources",),
        beside=("stage.json",),
        is_timed=True,
        label="stage",
        title="Staging sources",
        need=ResourceNeed(4_000, 0, 30, 3),
    ),
    Stage(
        "read_records",
        "data",
        keys=("data.format", *READING_KEYS, "data.max_bad_fraction", "data.max_records", "data.seed", "train.method"),
        parents=after("stage_sources"),
        is_timed=True,
        label="read",
        title="Reading records",
        shard_rules=(ShardRule("read_shard", "parts/{}.part", "read shard"),),
        need=ResourceNeed(4_000, 50, 30, 3),
    ),
    Stage(
        "dedupe_records",
        "data",
        keys=("dedupe",),
        parents=after("read_records"),
        is_timed=True,
        label="dedupe",
        title="Removing duplicates",
        shard_rules=(ShardRule("key_shard", "keys/{}.part", "dedupe shard"), ShardRule("sketch_shard", "sketches/{}")),
        need=ResourceNeed(8_000, 300, 30, 6),
    ),
    Stage(
        "split_records",
        "data",
        keys=("split",),
        parents=after("dedupe_records"),
        is_timed=True,
        label="split",
        title="Holding out a split",
        need=ResourceNeed(8_000, 800, 30, 10),
    ),
    Stage(
        "prepare_tokenizer",
        "data",
        keys=(
            "model.name_or_path",
            "model.revision",
            "model.trust_remote_code",
            "model.tiny.corpus",
            "model.tiny.vocab_size",
            "model.tiny.max_position_embeddings",
        ),
        parents=_tokenizer_parents,
        is_timed=True,
        is_local=True,
        label="tokenizer",
        title="Preparing the tokenizer",
    ),
    Stage(
        "prepare_model",
        "model",
        keys=("model.name_or_path", "model.revision", "model.trust_remote_code", "model.tiny", "plan.without_weights"),
        parents=after("prepare_tokenizer"),
        is_timed=True,
        is_local=True,
        is_long=True,
        label="model",
        title="Preparing the base model",
    ),
    Stage(
        "tokenize_records",
        "data",
        keys=("tokens.chat_template", "tokens.assistant_only_loss", "tokens.reasoning", "tokens.date", "train.method"),
        parents=after("split_records", "prepare_tokenizer"),
        is_timed=True,
        label="tokenise",
        title="Tokenising",
        shard_rules=(ShardRule("tokenize_shard", "parts/{}.part", "tokenise shard"),),
        need=ResourceNeed(8_000, 350, 30, 8),
    ),
    Stage(
        "rightsize",
        "data",
        keys=(
            "tokens.max_length",
            "tokens.coverage",
            "tokens.pad_to_multiple_of",
            "tokens.on_too_long",
            "tokens.max_dropped_fraction",
        ),
        parents=after("tokenize_records"),
        results=("rightsize.json",),
        is_timed=True,
        label="rightsize",
        title="Choosing the maximum length",
        need=ResourceNeed(4_000, 500, 30, 1),
    ),
    Stage(
        "pack_rows",
        "data",
        keys=("tokens.packing", "tokens.on_too_long"),
        parents=after("rightsize"),
        is_timed=True,
        label="pack",
        title="Packing rows",
        need=ResourceNeed(4_000, 1_300, 30, 3),
    ),
    Stage("probe_run", "run", results=("probe.json",), is_long=True, label="probe", title="Measuring a short training"),
    Stage(
        "plan_run",
        "run",
        keys=(
            "plan",
            "adapter",
            "merge.enabled",
            "evaluate.max_samples",
            "data.format",
            "model.name_or_path",
            *LOADING_KEYS,
            *(f"train.{name}" for name in PLANNED_OF_TRAINING),
        ),
        parents=after("pack_rows"),
        results=("plan.json",),
        is_wanted=True,
        is_cost=True,
        is_local=True,
        label="plan",
        title="Planning",
    ),
    Stage("render_plan", "run", results=("plan.html",), is_local=True),
    Stage("ablate_run", "page", results=("ablate.json",), is_long=True, label="ablate"),
    Stage("render_ablation", "page", results=("ablate.html",), is_local=True),
    Stage(
        "train_model",
        "run",
        keys=("adapter", "train", "plan.num_gpus", *LOADING_KEYS),
        parents=after("pack_rows", "prepare_model"),
        results=("adapter.manifest.json",),
        beside=("metrics.jsonl", "run_info.json"),
        is_wanted=True,
        is_timed=True,
        is_long=True,
        label="train",
        title="Training",
    ),
    Stage(
        "merge_adapter",
        "run",
        keys=("merge", "model.attn_implementation", "model.trust_remote_code", "train.cpu_threads"),
        parents=after("train_model"),
        results=("merge.json",),
        is_wanted=True,
        is_after_merge=True,
        is_timed=True,
        label="merge",
        title="Merging",
    ),
    Stage(
        "evaluate_model",
        "run",
        keys=("evaluate", *READING_KEYS, "merge.enabled", *LOADING_KEYS, "train.cpu_threads"),
        parents=after("train_model"),
        results=("evaluation.json",),
        beside=("documents.jsonl", "evaluation_info.json", "generations.jsonl"),
        is_wanted=True,
        is_timed=True,
        is_long=True,
        label="evaluate",
        title="Evaluating",
    ),
    Stage(
        "describe_run",
        "run",
        results=("run.json",),
        beside=("history.json",),
        is_wanted=True,
        is_local=True,
        title="Describing the run",
    ),
    Stage(
        "render_report",
        "run",
        results=("facts.json", "report.html"),
        is_wanted=True,
        is_local=True,
        label="report",
        title="Rendering the report",
    ),
    Stage(
        "write_model_card",
        "run",
        results=("adapter_card.md", "merged_card.md"),
        has_job_per_result=True,
        is_wanted=True,
        is_local=True,
        title="Writing the cards",
    ),
    Stage(
        "accept_merge",
        "run",
        results=("merged.manifest.json",),
        is_wanted=True,
        is_after_merge=True,
        is_local=True,
        title="Accepting the merge",
    ),
    Stage("convert_to_gguf", "run", results=("model.gguf",), is_after_merge=True, is_long=True, label="gguf"),
    Stage("compare_runs", "page", results=("compare.html",), is_local=True, label="compare"),
    Stage("inspect", "page", results=(), is_local=True),
    Stage("report", "page", results=(), is_local=True),
    Stage("ask", "page", results=(), is_local=True),
    Stage("prune", "page", results=(), is_local=True),
    Stage("publish", "page", results=(), is_local=True),
)


def stage_names(*scopes: Scope) -> tuple[str, ...]:
    """Return the names of the stages of ``scopes``, in the order of the workflow."""
    return tuple(stage.name for stage in TABLE if stage.scope in scopes)


STAGE_BY_NAME = {stage.name: stage for stage in TABLE}
