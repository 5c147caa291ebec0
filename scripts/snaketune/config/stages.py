"""Which part of the configuration each stage depends on, and the identity that follows from it.

The id of a stage covers its own slice and those of all stages before it, and nothing else: runs share every
stage whose configuration they share, and going back to an earlier configuration finds its results in place.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from snaketune.common.canonical import digest_of
from snaketune.config.resolve import ResolvedRun, all_keys
from snaketune.config.schema import RunConfig

# Settings that change how a stage works but never what it makes: they are in no spec and never retrain.
OPERATIONAL = {
    "paths.results",
    "paths.scratch",
    "train.dataloader_num_workers",
    "train.dataloader_prefetch_factor",
    "train.dataloader_pin_memory",
    "train.save_steps",
    "train.save_total_limit",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the workflow: the keys it depends on and the stages whose results it uses."""

    name: str
    keys: tuple[str, ...]
    parents: Callable[[RunConfig], tuple[str, ...]]


def _after(*names: str) -> Callable[[RunConfig], tuple[str, ...]]:
    return lambda config: names


def _model_parents(config: RunConfig) -> tuple[str, ...]:
    learns_from_data = config.model.name_or_path == "tiny" and config.model.tiny.corpus == "data"
    return ("split_records",) if learns_from_data else ()


STAGES = {
    stage.name: stage
    for stage in (
        Stage("stage_sources", ("data.sources",), _after()),
        Stage(
            "read_records",
            ("data.format", "data.columns", "data.system_prompt", "data.max_bad_fraction"),
            _after("stage_sources"),
        ),
        Stage("dedupe_records", ("dedupe",), _after("read_records")),
        Stage("split_records", ("split",), _after("dedupe_records")),
        Stage(
            "prepare_model",
            ("model.name_or_path", "model.revision", "model.trust_remote_code", "model.tiny"),
            _model_parents,
        ),
        Stage(
            "tokenize_records",
            ("tokens.chat_template", "tokens.assistant_only_loss"),
            _after("split_records", "prepare_model"),
        ),
        Stage(
            "rightsize",
            ("tokens.max_length", "tokens.coverage", "tokens.pad_to_multiple_of", "tokens.on_too_long"),
            _after("tokenize_records"),
        ),
        Stage("pack_rows", ("tokens.packing", "tokens.on_too_long"), _after("rightsize")),
        Stage(
            "train_model",
            ("adapter", "train", "model.dtype", "model.attn_implementation", "model.trust_remote_code"),
            _after("pack_rows"),
        ),
        Stage(
            "merge_adapter",
            ("merge", "model.attn_implementation", "model.trust_remote_code", "train.cpu_threads"),
            _after("train_model"),
        ),
        Stage(
            "evaluate_model",
            (
                "evaluate",
                "merge.enabled",
                "model.dtype",
                "model.attn_implementation",
                "model.trust_remote_code",
                "train.cpu_threads",
            ),
            _after("train_model"),
        ),
    )
}

DATA_STAGES = (
    "stage_sources",
    "read_records",
    "dedupe_records",
    "split_records",
    "tokenize_records",
    "rightsize",
    "pack_rows",
)


def slice_of(config: RunConfig, stage: str) -> dict[str, Any]:
    """Return the nested part of the configuration that ``stage`` depends on, without operational settings.

    A stage with keys of one section gets that section's keys; several sections are kept apart by name. What
    cannot matter is left out, so that it reruns nothing: ``model.tiny`` for any other model, ``revision`` for
    the built-in one, ``coverage`` when the length is given, how near is near when nobody asks.
    """
    values = config.model_dump(mode="json")
    wanted = [key for key in all_keys() if _covers(STAGES[stage].keys, key) and key not in OPERATIONAL]
    wanted = [key for key in wanted if _matters(config, key)]
    nested: dict[str, Any] = {}
    for key in wanted:
        *sections, leaf = key.split(".")
        source, target = values, nested
        for section in sections:
            source, target = source[section], target.setdefault(section, {})
        target[leaf] = source[leaf]
    return nested


def _covers(keys: tuple[str, ...], key: str) -> bool:
    return any(key == wanted or key.startswith(f"{wanted}.") for wanted in keys)


def _matters(config: RunConfig, key: str) -> bool:
    name = config.model.name_or_path
    if key.startswith("model.tiny."):
        return name == "tiny"
    if key == "model.revision":
        return name != "tiny"
    if key in ("dedupe.threshold", "dedupe.num_perm", "dedupe.ngram"):
        return config.dedupe.near
    if key == "dedupe.ignore_case":
        return config.dedupe.exact
    return not (key in ("tokens.coverage", "tokens.pad_to_multiple_of") and config.tokens.max_length != "auto")


def lineage(config: RunConfig, stage: str) -> tuple[str, ...]:
    """Return ``stage`` and every stage before it, in a fixed order."""
    found = {stage}
    for parent in STAGES[stage].parents(config):
        found.update(lineage(config, parent))
    return tuple(name for name in STAGES if name in found)


def identity(config: RunConfig, stage: str) -> str:
    """Return eight hex digits over the configuration of ``stage`` and of every stage before it."""
    return digest_of({name: slice_of(config, name) for name in lineage(config, stage)}, size=4)


def readable(config: RunConfig, stage: str) -> str:
    """Return the word that an id starts with: of the data, the model or the method."""
    if stage in DATA_STAGES:
        return _slug(PurePath(config.data.sources[0]).name.split(".")[0].removeprefix("builtin:"))
    if stage == "prepare_model":
        return _slug(PurePath(config.model.name_or_path).name)
    return f"{config.adapter.type}-r{config.adapter.r}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:32] or "data"


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of one stage: its id, its slice and the ids of the stages it reads."""

    stage: str
    id: str
    cfg: dict[str, Any]
    config: RunConfig
    upstream: dict[str, str]


def stage_id(config: RunConfig, stage: str) -> str:
    """Return the readable, configuration-addressed id of ``stage``."""
    return f"{readable(config, stage)}-{identity(config, stage)}"


def variants(runs: list[ResolvedRun]) -> dict[tuple[str, str], Variant]:
    """Return every variant that the runs need, keyed by stage and id; what runs share appears once."""
    table: dict[tuple[str, str], Variant] = {}
    for run in runs:
        for stage in STAGES:
            upstream = {name: stage_id(run.config, name) for name in lineage(run.config, stage)}
            own = upstream[stage]
            table[stage, own] = Variant(stage, own, slice_of(run.config, stage), run.config, upstream)
    return table
