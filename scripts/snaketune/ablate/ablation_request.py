"""Collects the subject of an ablation from a run's files and this machine."""

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

from snaketune.ablate.ablation import Subject
from snaketune.ablate.factors import GUIDES_LENGTH, AblationSituation
from snaketune.ablate.layouts import DocumentSample, draw, lengths_to_compare
from snaketune.facts.data_facts import COUNTED_ROWS, DOCUMENT_LENGTHS, STAGED, CountedRows, DocumentLengths
from snaketune.facts.model_facts import PREPARED_MODEL, PreparedModel
from snaketune.facts.token_facts import ENCODING, Encoding
from snaketune.plan.devices.machine import Machine
from snaketune.plan.devices.target import Target, choose_target
from snaketune.plan.workload import Work, read_work
from snaketune.settings.data_slices import LengthSlice, TokenizingSlice
from snaketune.settings.operational import Operational
from snaketune.settings.planning_slice import PlanningSlice
from snaketune.settings.training_slices import TrainingSlice
from snaketune.storage.copy_targets import BUILTIN
from snaketune.storage.disks import Disks
from snaketune.storage.stage_facts import sources_of
from snaketune.storage.staging import ensure_staged

COMPILERS = ("g++", "clang++", "c++")


class AblationSlice(TypedDict, total=False):
    """The slices of the stages whose settings are measured, and the requested factors."""

    training: TrainingSlice
    planning: PlanningSlice
    lengths: LengthSlice
    tokenizing: TokenizingSlice
    factors: list[str]
    catalogue: str


@dataclass(frozen=True, slots=True)
class AblationFiles:
    """The results of earlier stages that an ablation reads: folders or files, and their facts."""

    model: Path
    """The prepared model."""
    tokens: Path
    """Folder of the tokenised splits."""
    records: Path
    """Training records."""
    rows: Path
    """Packed training rows."""
    model_facts: PreparedModel
    token_facts: Encoding
    rightsize: DocumentLengths
    pack: CountedRows
    sources: tuple[Path, ...]
    """Raw files; none for the built-in data."""
    copies: tuple[Path, ...]
    """Where they are read from."""


def target_here(cfg: AblationSlice, machine: Machine) -> Target:
    """Return the device of this machine, where everything is measured, with the configured price."""
    return choose_target({**cfg["planning"]["plan"], "gpu": "auto", "num_gpus": 1}, machine)


def subject_of(
    cfg: AblationSlice, settings: Operational, files: AblationFiles, machine: Machine
) -> tuple[Subject, AblationSituation]:
    """Return the run and the facts that decide which factors can be shown.

    Args:
        cfg: ``training``, ``planning``, ``lengths`` and ``tokenizing``: the slices of those stages.
        settings: operational settings of training.
        files: results of earlier stages.
        machine: this one.

    Raises:
        ConfigError: if the adapter does not fit the model.
    """
    target, rightsize = target_here(cfg, machine), files.rightsize
    work = read_work(cfg["planning"], files.model, files.model_facts, rightsize, files.pack, target)
    train, adapter = cfg["training"]["train"], cfg["training"]["adapter"]
    multiple = cfg["lengths"]["tokens"].get("pad_to_multiple_of", 64)
    right, long = lengths_to_compare(files.tokens, rightsize, multiple, GUIDES_LENGTH)
    sample = draw(files.tokens, rightsize["max_length"], train["seed"])
    here = AblationSituation(
        own_places=train["per_device_train_batch_size"] * files.pack["row_length"],
        right_length=right,
        long_length=long,
        context=rightsize["model_context"],
        longest=sample.longest,
        rank=adapter["r"] if adapter["type"] == "lora" else 0,
        quantization=cfg["training"]["model"]["quantization"],
        is_cpu=target.is_cpu,
        has_bf16=target.has_bf16,
        has_compiler=any(map(shutil.which, COMPILERS)),
        has_bitsandbytes=find_spec("bitsandbytes") is not None,
        has_liger=find_spec("liger_kernel") is not None,
        has_torchao=find_spec("torchao") is not None,
        optim=train["optim"],
        offloads=train["activation_offloading"],
        fp8=train["fp8"],
        cores=os.cpu_count() or 1,
        device=target.hardware.title,
    )
    return _subject(cfg, settings, files, work, target, sample), here


def _subject(
    cfg: AblationSlice,
    settings: Operational,
    files: AblationFiles,
    work: Work,
    target: Target,
    sample: DocumentSample,
) -> Subject:
    train, pack = cfg["training"]["train"], files.pack["splits"]["train"]
    rows = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    return Subject(
        cfg=cfg["training"],
        settings=settings,
        model=files.model,
        pad_id=files.token_facts["pad_id"],
        sample=sample,
        records=str(files.records),
        recipe=_recipe(cfg, files),
        rows=str(files.rows),
        sources=[str(path) for path in files.sources],
        copies=[str(path) for path in files.copies],
        source_bytes=sum(path.stat().st_size for path in files.sources),
        shape=work.shape,
        trained=work.trained,
        is_full=work.is_full,
        epoch_tokens=pack["tokens"],
        step_tokens=rows * pack["tokens"] / pack["rows"],
        price_per_hour=target.price.usd,
    )


def _recipe(cfg: AblationSlice, files: AblationFiles) -> dict[str, Any]:
    """Return how the run's records are tokenised, as ``Recipe`` has it."""
    template = (files.tokens / "chat_template.jinja").read_text(encoding="utf-8")
    return {
        "folder": str(files.model),
        "template": template or None,
        "assistant_only": cfg["tokenizing"]["tokens"]["assistant_only_loss"],
        "vocab_size": files.model_facts.get("vocab_size"),
        "engine": files.token_facts["engine"],
        "method": files.token_facts["method"],
        "learns_by": cfg["training"]["train"]["method"],
    }


def read_files(given: Any, disks: Disks, scratch: str | None, work: Path) -> AblationFiles:
    """Return the files of a run, each checked against its manifest.

    Args:
        given: paths by name: ``rightsize``, ``tokens``, ``records``, ``pack``, ``model`` and ``stage``.
        disks: of this machine.
        scratch: folder for copies of the sources, as configured.
        work: private folder of the workflow.

    Raises:
        DataError: if a file is missing or damaged.
    """
    sources = [source for source in sources_of(STAGED.read(given.stage)) if source.path not in BUILTIN]
    return AblationFiles(
        model=Path(given.model).parent / "model",
        tokens=Path(given.tokens).parent,
        records=Path(given.records),
        rows=Path(given.pack).with_name("train.arrow"),
        model_facts=PREPARED_MODEL.read_manifest(given.model),
        token_facts=ENCODING.read_manifest(given.tokens),
        rightsize=DOCUMENT_LENGTHS.read(given.rightsize),
        pack=COUNTED_ROWS.read_manifest(given.pack),
        sources=tuple(Path(source.path) for source in sources),
        copies=tuple(ensure_staged(sources, scratch, work, disks)),
    )
