"""The part of the configuration that each stage depends on, and the identity that follows from it.

The id of a stage covers its own slice and those of all stages before it, and nothing else: runs share every stage with
the same configuration, and returning to an earlier configuration reuses its results.

A run may start from another run. Its model is then the other run's merged model, whose identity becomes part of this
run's; its tokenizer is that of the first model of the chain, so that its data stages wait for no training. No data
stage waits for weights either: all of them use the output of ``prepare_tokenizer``.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import PurePath
from typing import Any

from snaketune.config.known_keys import all_keys
from snaketune.config.resolve import ResolvedRun
from snaketune.config.schema import LinkedConfig
from snaketune.config.schema_sources import path_of
from snaketune.core.canonical import digest_of
from snaketune.core.training_methods import SFT_ROWS
from snaketune.workflow.id_words import method_name, slug
from snaketune.workflow.stage_table import TABLE, stage_names

# Settings that change how a stage runs but never its result: they are in no spec and never retrain.
OPERATIONAL = {
    "data.shards",
    "merge.gguf_converter",
    "merge.gguf_types",
    "paths.publish",
    "paths.publish_private",
    "paths.results",
    "paths.scratch",
    "plan.num_nodes",
    "train.dataloader_num_workers",
    "train.dataloader_prefetch_factor",
    "train.dataloader_pin_memory",
    "train.hours_between_interruptions",
    "train.max_loss_increase",
    "train.report_to",
    "train.save_steps",
    "train.save_total_limit",
}
# Keys that matter only for best-checkpoint selection or early stopping.
BEST_KEYS = (
    "train.load_best_model_at_end",
    "train.metric_for_best_model",
    "train.greater_is_better",
    "train.early_stopping_patience",
    "train.early_stopping_threshold",
)
# Bytes of the digest by which a slice refers to another run's result.
LINK_BYTES = 16


# The stages that have a slice and an id.
CONFIGURED_STAGES = {stage.name: stage for stage in TABLE if stage.keys is not None}
DATA_STAGES = stage_names("data")


def slice_of(config: LinkedConfig, stage: str) -> dict[str, Any]:
    """Return the nested part of the configuration that ``stage`` depends on, without operational settings.

    Keys are grouped by section. Settings without effect are left out, so that changing them reruns nothing:
    ``model.tiny`` for any other model, ``revision`` for the built-in one, ``coverage`` if the length is given, the
    near-duplicate settings if ``near`` is off.
    """
    return {key: dict(part) if isinstance(part, dict) else part for key, part in _slice(_Same(config), stage).items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """A configuration compared by identity. It never changes, so that values derived from it can be cached."""

    config: LinkedConfig

    def __hash__(self) -> int:
        return id(self.config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.config is other.config


@lru_cache(maxsize=1024)
def _values(same: _Same) -> dict[str, Any]:
    return same.config.model_dump(mode="json")


@lru_cache(maxsize=16384)
def _slice(same: _Same, stage: str) -> dict[str, Any]:
    """Return the result of :func:`slice_of` from a cache: it must not be modified."""
    config, values = same.config, _values(same)
    wanted = [key for key in _keys_of(stage) if _matters(config, key) and not _is_usual(config, stage, key)]
    nested: dict[str, Any] = {}
    for key in wanted:
        *sections, leaf = key.split(".")
        source, target = values, nested
        for section in sections:
            source, target = source[section], target.setdefault(section, {})
        target[leaf] = source[leaf]
    if stage == "prepare_model" and config.base_run:
        nested["model"]["base"] = identity(config.base_run, "merge_adapter", LINK_BYTES)
    if stage == "train_model" and config.start_run:
        nested["adapter"]["start"] = identity(config.start_run, "train_model", LINK_BYTES)
    if stage == "train_model" and config.reward_runs:
        nested["train"]["grpo"]["identities"] = {
            name: identity(run, "merge_adapter", LINK_BYTES) for name, run in config.reward_runs.items()
        }
    if stage == "evaluate_model" and config.judge_run:
        nested["evaluate"]["judge"] = identity(config.judge_run, "merge_adapter", LINK_BYTES)
    if stage == "merge_adapter" and config.merged_runs:
        nested["merge"]["identities"] = {
            name: identity(run, "train_model", LINK_BYTES) for name, run in config.merged_runs.items()
        }
    return nested


@cache
def _keys_of(stage: str) -> tuple[str, ...]:
    """Return the keys that a stage can depend on, in the order of the schema."""
    return tuple(
        key for key in all_keys() if _covers(CONFIGURED_STAGES[stage].keys or (), key) and key not in OPERATIONAL
    )


def _covers(keys: tuple[str, ...], key: str) -> bool:
    return any(key == wanted or key.startswith(f"{wanted}.") for wanted in keys)


def _is_usual(config: LinkedConfig, stage: str, key: str) -> bool:
    """Tell whether the data are prepared as for sft: then the method is not part of their identity."""
    return key == "train.method" and stage in DATA_STAGES and config.train.method in SFT_ROWS


def _matters(config: LinkedConfig, key: str) -> bool:
    name = config.model.name_or_path
    if key.startswith("model.tiny."):
        return name == "tiny"
    if key == "plan.without_weights":
        return config.plan.without_weights
    if key == "model.revision":
        return name not in ("tiny", "smollm2") and not config.base_run
    if key.startswith("adapter.") and key != "adapter.type":
        return config.adapter.type == "lora"
    if key in ("dedupe.threshold", "dedupe.num_perm", "dedupe.ngram"):
        return config.dedupe.near
    if key.startswith(("train.dpo.", "train.orpo.", "train.kto.", "train.reward.", "train.grpo.")):
        is_used = key != "train.dpo.label_smoothing" or config.train.dpo.loss_type == "sigmoid"
        is_used &= not key.startswith("train.grpo.vllm_") or config.train.grpo.use_vllm
        return key.split(".")[1] == config.train.method and is_used
    if key in BEST_KEYS:
        return _follows_evaluations(config, key)
    if key == "train.checkpoint_every_n_layers":
        return config.train.gradient_checkpointing is True
    if key == "evaluate.columns":
        return bool(config.evaluate.files)
    if key in ("merge.adapters", "merge.method", "merge.density", "merge.seed"):
        is_drawn = key == "merge.seed" and _rounds_at_random(config)
        return is_drawn or (bool(config.merge.adapters) and _matters_in_merging(config.merge.method, key))
    if key == "merge.rounding":
        return config.merge.dtype != "float32"
    if key == "split.max_alike":
        return config.split.max_similarity is not None
    if key == "data.max_records":
        return config.data.max_records is not None
    if key == "dedupe.ignore_case":
        return config.dedupe.exact
    return not (key in ("tokens.coverage", "tokens.pad_to_multiple_of") and config.tokens.max_length != "auto")


def _follows_evaluations(config: LinkedConfig, key: str) -> bool:
    train = config.train
    if key == "train.load_best_model_at_end":
        return train.load_best_model_at_end
    if key in ("train.early_stopping_patience", "train.early_stopping_threshold"):
        return train.early_stopping_patience is not None
    return train.load_best_model_at_end or train.early_stopping_patience is not None


def _rounds_at_random(config: LinkedConfig) -> bool:
    """Tell whether merged weights may be rounded stochastically; the base model's dtype is unknown here."""
    return config.merge.rounding != "nearest" and config.merge.dtype != "float32"


def _matters_in_merging(method: str, key: str) -> bool:
    if key == "merge.density":
        return not method.startswith(("cat", "linear", "svd"))
    return key != "merge.seed" or method.startswith("dare")


def lineage(config: LinkedConfig, stage: str) -> tuple[str, ...]:
    """Return ``stage`` and all its upstream stages, in a fixed order."""
    found = {stage}
    for parent in CONFIGURED_STAGES[stage].parents(config):
        found.update(lineage(config, parent))
    return tuple(name for name in CONFIGURED_STAGES if name in found)


def identity(config: LinkedConfig, stage: str, size: int = 4) -> str:
    """Return hex digits for ``size`` bytes over the configuration of ``stage`` and of every stage before it."""
    return _identity(_Same(config), stage, size)


@lru_cache(maxsize=16384)
def _identity(same: _Same, stage: str, size: int) -> str:
    config = same.config
    parts = {name: _slice(_Same(config), name) for name in lineage(config, stage)}
    if "prepare_tokenizer" in parts:
        parts["prepare_tokenizer"] = _tokenizer_part(config)
    return digest_of(parts, size=size)


def first_run(config: LinkedConfig) -> LinkedConfig:
    """Return the first run of the chain, whose model provides the tokenizer."""
    return first_run(config.base_run) if config.base_run else config


def _tokenizer_part(config: LinkedConfig) -> dict[str, Any]:
    """Return the tokenizer's part of the identity: its slice and, if its data differ, their identity."""
    first = first_run(config)
    part, before = slice_of(first, "prepare_tokenizer"), lineage(first, "prepare_tokenizer")[:-1]
    if all(slice_of(first, name) == slice_of(config, name) for name in before):
        return part
    return part | {"identity": identity(first, "prepare_tokenizer", LINK_BYTES)}


def readable_prefix(config: LinkedConfig, stage: str) -> str:
    """Return the readable beginning of an id: the name of the data, the model or the method."""
    if stage in ("prepare_tokenizer", "prepare_model"):
        return slug(PurePath(config.model.name_or_path).name)
    if stage in DATA_STAGES:
        return slug(PurePath(path_of(config.data.sources[0])).name.split(".")[0].removeprefix("builtin:"))
    return method_name(config)


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of one stage: its id, its slice and the ids of the stages it reads."""

    stage: str
    id: str
    cfg: dict[str, Any]
    config: LinkedConfig
    upstream: dict[str, str]


def stage_id(config: LinkedConfig, stage: str) -> str:
    """Return the readable, configuration-addressed id of ``stage``."""
    config = _owner(config, stage)
    return f"{readable_prefix(config, stage)}-{identity(config, stage)}"


def _owner(config: LinkedConfig, stage: str) -> LinkedConfig:
    """Return the run whose configuration determines ``stage``: for the tokenizer, the first of the chain."""
    return first_run(config) if stage == "prepare_tokenizer" else config


def variants(runs: list[ResolvedRun]) -> dict[tuple[str, str], Variant]:
    """Return every variant that the runs need, keyed by stage and id; shared ones appear once."""
    table: dict[tuple[str, str], Variant] = {}
    for run in runs:
        ids = {stage: stage_id(run.config, stage) for stage in CONFIGURED_STAGES}
        for stage, own in ids.items():
            config = _owner(run.config, stage)
            upstream = {name: ids[name] for name in lineage(config, stage)}
            table[stage, own] = Variant(stage, own, slice_of(config, stage), config, upstream)
    return table
