"""Merging what was trained: choose the way, write, add what makes it a model, prove it, and only then publish."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from snaketune.common.atomic import writing_directory
from snaketune.common.canonical import read_json
from snaketune.common.errors import ConfigError, DataError, TrainingError
from snaketune.data.rows import PackedRows
from snaketune.evaluate.models import ModelSettings, is_whole_model
from snaketune.merge.adapter import AGAIN, Adapter, read_adapter
from snaketune.merge.checkpoint import Checkpoint, size_in_bytes
from snaketune.merge.companions import CONFIG, copy_companions
from snaketune.merge.streaming import Merged, merge_streaming, strangers
from snaketune.merge.trained_model import TrainedModel, copy_trained, read_trained_model
from snaketune.merge.verify import Proof, verify_merge
from snaketune.merge.with_peft import merge_with_peft


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """Number format of the merged weights (None is the base's own), largest file, and how models are loaded."""

    dtype: torch.dtype | None
    max_shard_size: str
    model: ModelSettings

    @classmethod
    def of_slice(cls, cfg: dict[str, Any]) -> "MergeSettings":
        """Return the settings in a configuration slice, whose sections may be nested or flat."""
        own = cfg.get("merge", cfg)
        dtype = None if own["dtype"] == "auto" else getattr(torch, own["dtype"])
        return cls(dtype, own["max_shard_size"], ModelSettings.of_slice(cfg))


@dataclass(frozen=True, slots=True)
class MergeMaterial:
    """Where things lie: base model, adapter or trained model, chat template in force, and rows that the check reads.

    Rows are tried in order: those held out first, the training rows where nothing is held out.
    """

    model: Path
    adapter: Path
    template: Path
    rows: tuple[Path, ...]


def merge_adapter(material: MergeMaterial, settings: MergeSettings, output: str | Path) -> dict[str, Any]:
    """Write the merged model to the folder ``output`` and return the facts for its manifest.

    Raises:
        ConfigError: if the base model is quantised.
        TrainingError: if the adapter is unsound or the result is not proven equal; ``output`` is then untouched.
    """
    _refuse_quantised(material.model)
    tuned = read_trained_model(material.adapter) if is_whole_model(material.adapter) else read_adapter(material.adapter)
    name, rows = checking_rows(material.rows)
    template = material.template.read_text(encoding="utf-8")
    with writing_directory(output) as folder:
        merged = _write(material.model, tuned, folder, settings)
        own = material.adapter if isinstance(tuned, TrainedModel) else material.model
        copy_companions(material.model, own, folder, merged.dtype, template)
        check = verify_merge(folder, merged, Proof(material.model, tuned, rows, settings.model, template))
    dtype = str(merged.dtype).removeprefix("torch.")
    change = f"mean KL {check.mean_kl:.3g} nats, relative loss change {check.relative_loss_change:.3g}"
    verb = "Copied" if isinstance(tuned, TrainedModel) else "Merged"
    print(f"{verb} {check.tensors_merged} weights ({dtype}): {change}", flush=True)
    return {"check": {**check.facts(), "split": name}, "dtype": dtype}


def _write(model: Path, tuned: Adapter | TrainedModel, folder: Path, settings: MergeSettings) -> Merged:
    if isinstance(tuned, TrainedModel):
        return copy_trained(Checkpoint(model), tuned, folder, settings.dtype, size_in_bytes(settings.max_shard_size))
    return write_merged(model, tuned, folder, settings)


def write_merged(model: Path, adapter: Adapter, folder: Path, settings: MergeSettings) -> Merged:
    """Write the merged weights to ``folder``: streamed for a plain adapter, by PEFT for any other."""
    base = Checkpoint(model)
    if adapter.is_plain and base.dtypes:
        unknown = strangers(base, adapter)
        if not unknown:
            return merge_streaming(base, adapter, folder, settings.dtype, size_in_bytes(settings.max_shard_size))
        _refuse_unknown_modules(model, adapter, unknown, settings.model.trust_remote_code)
    trust = settings.model.trust_remote_code
    return merge_with_peft(model, adapter, folder, settings.dtype, settings.max_shard_size, trust)


def checking_rows(paths: tuple[Path, ...]) -> tuple[str, PackedRows]:
    """Return the first packed rows that are not empty, and the name of their split.

    Raises:
        DataError: if all are empty.
    """
    for path in paths:
        rows = PackedRows(path)
        if len(rows):
            return path.stem, rows
    raise DataError(
        f"{paths[0]}: there are no packed rows to check the merged model on: give data.sources more records."
    )


def _refuse_unknown_modules(model: Path, adapter: Adapter, unknown: list[str], trust: bool) -> None:
    """Raise a TrainingError unless the model has all modules, its checkpoint merely calling them otherwise."""
    config = AutoConfig.from_pretrained(str(model), local_files_only=True, trust_remote_code=trust)
    with torch.device("meta"):
        known = {name for name, _ in AutoModelForCausalLM.from_config(config, trust_remote_code=trust).named_modules()}
    missing = [module for module in unknown if module not in known]
    if missing:
        raise TrainingError(
            f"{adapter.folder}: {len(missing)} modules of the adapter are not in the base model, the first is"
            f" {missing[0]}: the adapter belongs to another model; {AGAIN}."
        )


def _refuse_quantised(model: Path) -> None:
    if "quantization_config" in read_json(model / CONFIG):
        raise ConfigError(
            f"{model / CONFIG}: the base model is quantised, and merging into rounded weights would round them again:"
            " give the unquantised model in model.name_or_path, or set merge.enabled to false."
        )
