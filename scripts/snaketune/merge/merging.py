"""The merge: choose the method, write the weights and auxiliary files, verify them, and only then publish."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from snaketune.card.placing import README
from snaketune.core.atomic import writing_directory
from snaketune.core.canonical import digest_of, read_json
from snaketune.core.disk_space import require_room
from snaketune.core.errors import ConfigError, TrainingError
from snaketune.core.gpus import take_cards
from snaketune.core.manifest import describe_files
from snaketune.evaluate.evaluation_inputs import located
from snaketune.evaluate.models import is_whole_model, load_tokenizer
from snaketune.merge.adapter import TRAIN_AGAIN, LoadedAdapter, read_adapter
from snaketune.merge.auxiliary_files import copy_auxiliary_files, end_answers
from snaketune.merge.checkpoint import Checkpoint, size_in_bytes
from snaketune.merge.combining import Combination, combine_adapters
from snaketune.merge.merge_inputs import MergeInputs, MergeSettings, check_origin
from snaketune.merge.outcome import attempt
from snaketune.merge.streaming import merge_streaming, strangers
from snaketune.merge.trained_model import TrainedModel, copy_trained, read_trained_model
from snaketune.merge.verification.merge_gate import check_in_fresh_process, checking_rows
from snaketune.merge.verification.written_weights import is_streamed
from snaketune.merge.with_peft import write_with_peft
from snaketune.model.architecture import auto_class, read_configuration
from snaketune.model.configuration import CONFIG
from snaketune.model.reward_model import is_reward_model
from snaketune.settings.merge_slices import MergeSlice

COMBINED_FOLDER = "combined_adapter"
MergeGate = Callable[[Path, MergeInputs, MergeSlice], dict[str, Any]]


def merge_adapter(
    inputs: MergeInputs, cfg: MergeSlice, output: str | Path, gate: MergeGate = check_in_fresh_process
) -> dict[str, Any]:
    """Write the merged model to the folder ``output`` and return the facts for its manifest.

    Args:
        inputs: paths of the inputs.
        cfg: configuration slice of the merge.
        output: the folder to create.
        gate: checks the written folder and returns the facts of the check, or raises.

    Raises:
        ConfigError: if the base model is quantised.
        DataError: if there are no rows to check the result on.
        TrainingError: if the adapter is damaged or the check fails; ``output`` is then untouched.
    """
    settings = MergeSettings.of_slice(cfg)
    torch.set_num_threads(settings.model.cpu_threads)
    _refuse_quantised(inputs.model)
    checking_rows(inputs.rows)
    # Inputs are checked before space is reserved and anything is written.
    tuned = None if inputs.others else _read(inputs.adapter)
    needed = sum(file.stat().st_size for file in inputs.model.glob("*.safetensors"))
    require_room(output, needed, "the merged model")
    with writing_directory(output) as folder:
        if tuned is None:
            inputs = replace(inputs, adapter=folder / COMBINED_FOLDER)
            tuned = _combine(inputs, cfg, settings)
        dtype = _write(inputs.model, tuned, folder, settings)
        own = inputs.adapter if isinstance(tuned, TrainedModel) else inputs.model
        own = folder if is_reward_model(inputs.adapter) and not isinstance(tuned, TrainedModel) else own
        template = inputs.template.read_text(encoding="utf-8")
        copy_auxiliary_files(inputs.model, own, folder, dtype, template)
        end_answers(folder, inputs.model, load_tokenizer(folder, settings.model), template)
        # Inside the block that publishes: if the check raises, the folder never gets its final name.
        facts = {"check": gate(folder, inputs, cfg), "dtype": str(dtype).removeprefix("torch.")}
    facts["rounding"] = settings.rounding.name(dtype)
    if inputs.others:
        facts["combination"] = _combination_facts(inputs, cfg)
    _tell(facts, "Copied" if isinstance(tuned, TrainedModel) else "Merged")
    return facts


def _tell(facts: dict[str, Any], verb: str) -> None:
    check = facts["check"]
    if "score_change" in check:
        change = f"scores change by {check['score_change']:.3g}, {check['pairs_reordered']} pairs change their order"
    else:
        change = f"mean KL {check['mean_kl']:.3g} nats, relative loss change {check['relative_loss_change']:.3g}"
    print(f"{verb} {check['tensors_merged']} weights ({facts['dtype']}): {change}", flush=True)


def _read(folder: Path) -> LoadedAdapter | TrainedModel:
    return read_trained_model(folder) if is_whole_model(folder) else read_adapter(folder)


def _combine(inputs: MergeInputs, cfg: MergeSlice, settings: MergeSettings) -> LoadedAdapter:
    inputs.adapter.mkdir()
    how, trust = Combination.of_slice(cfg), settings.model.trust_remote_code
    return combine_adapters(inputs.model, inputs.others, how, inputs.adapter, trust)


def _combination_facts(inputs: MergeInputs, cfg: MergeSlice) -> dict[str, Any]:
    """Return what was combined, with the digest that each adapter has in its own run."""
    own = cfg["merge"]
    adapters = [
        {"run": adapter["run"], "weight": adapter["weight"], "digest": digest_of(_made_files(path))}
        for adapter, path in zip(own["adapters"], inputs.others, strict=True)
    ]
    return {"adapters": adapters, **{name: own[name] for name in ("method", "density", "seed") if name in own}}


def _made_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the files of a published folder as its manifest has them: the card is put there later."""
    names = [path for path in folder.iterdir() if path.name != README and not path.name.startswith(".")]
    return describe_files(names, folder.parent)


def _write(model: Path, tuned: LoadedAdapter | TrainedModel, folder: Path, settings: MergeSettings) -> torch.dtype:
    if isinstance(tuned, TrainedModel):
        limit = size_in_bytes(settings.max_shard_size)
        return copy_trained(Checkpoint(model), tuned, folder, settings.dtype, limit, settings.rounding)
    return write_merged(model, tuned, folder, settings)


def write_merged(model: Path, adapter: LoadedAdapter, folder: Path, settings: MergeSettings) -> torch.dtype:
    """Write the merged weights to ``folder``: streamed for a plain adapter, by PEFT for any other."""
    base = Checkpoint(model)
    if is_streamed(base, adapter):
        limit = size_in_bytes(settings.max_shard_size)
        return merge_streaming(base, adapter, folder, settings.dtype, limit, settings.rounding)
    trust = settings.model.trust_remote_code
    # A name that the checkpoint lacks may be a module that the model has under another name, which PEFT resolves.
    if adapter.is_plain and base.dtypes:
        _refuse_unknown_modules(model, adapter, strangers(base, adapter), trust)
    return write_with_peft(model, adapter, folder, settings)


def _refuse_unknown_modules(model: Path, adapter: LoadedAdapter, unknown: list[str], trust: bool) -> None:
    """Raise a TrainingError unless the model has all modules, under whatever names its checkpoint has them."""
    config = read_configuration(model, trust)
    with torch.device("meta"):
        known = {name for name, _ in auto_class(config).from_config(config, trust_remote_code=trust).named_modules()}
    missing = [module for module in unknown if module not in known]
    if missing:
        raise TrainingError(
            f"{adapter.folder}: {len(missing)} modules of the adapter are not in the base model; the first is"
            f" {missing[0]}: the adapter belongs to another model; {TRAIN_AGAIN}."
        )


def _refuse_quantised(model: Path) -> None:
    if "quantization_config" in read_json(model / CONFIG):
        raise ConfigError(
            f"{model / CONFIG}: the base model is quantised, and merging would round its weights a second time:"
            " give the unquantised model in model.name_or_path, or set merge.enabled to false."
        )


@dataclass(frozen=True, slots=True)
class MergeJob:
    """The stage's inputs, named like the flags of ``merge_adapter.py``, which documents them."""

    spec: str
    code: str
    cfg: MergeSlice
    model: Path
    adapter: Path
    others: list[Path]
    tokens: Path
    rows: Path
    output: Path


def merge_run(job: MergeJob) -> None:
    """Merge, check the result and write the facts; the merged model is the folder ``merged`` next to them."""
    take_cards()
    held_out = located(job.rows, "eval.arrow")
    inputs = MergeInputs(
        model=located(job.model, "model"),
        adapter=located(job.adapter, "adapter"),
        template=located(job.tokens, "") / "chat_template.jinja",
        rows=(held_out, held_out.with_name("train.arrow")),
        others=tuple(located(path, "adapter") for path in job.others),
    )
    folder = job.output.with_name("merged")

    def merge() -> dict[str, Any]:
        for adapter in (job.adapter, *job.others):
            check_origin(job.model, adapter)
        return merge_adapter(inputs, job.cfg, folder)

    attempt(merge, folder, job.output)
