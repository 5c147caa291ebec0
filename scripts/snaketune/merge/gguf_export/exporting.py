"""Exports the merged model as GGUF files of the requested types, each compared with the merged model."""

import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from snaketune.core.atomic import private_folder, sibling, sync_directory, sync_tree
from snaketune.core.errors import ConfigError, TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.models import ModelSettings, free_memory, load_model
from snaketune.facts.merge_facts import ExportCheck
from snaketune.merge.gguf_export.gguf import GGUF_DTYPES, convert_to_gguf, find_converter, run_tool
from snaketune.merge.gguf_export.gguf_writing import refusal, write_gguf
from snaketune.merge.verification.divergence import Comparing, kl_stride

QUANTIZERS = ("llama-quantize", "quantize")
# Types that llama.cpp's quantiser makes of a file of another type.
QUANTIZED = {"q4_k_m": "Q4_K_M"}
# Divergence from the merged model in nats per token above which a file is not an export of it but a mistake.
MOST_KL = {"f32": 1e-3, "bf16": 2e-2, "f16": 2e-2, "q8_0": 0.1, "q4_k_m": 1.0}
# Memory factor: one float32 model at a time, and inference.
EXPORT_MEMORY = 1.5


@dataclass(frozen=True, slots=True)
class Export:
    """An export: the merged model's folder, the dtype of its weights and the type of the file."""

    model: Path
    dtype: str
    kind: str | None

    @property
    def type(self) -> str:
        """The type of the file: by default that of the weights, so that nothing is rounded."""
        return self.kind or GGUF_DTYPES[self.dtype]


def find_quantizer() -> str:
    """Return the path of llama.cpp's quantiser.

    Raises:
        ConfigError: if it is not installed.
    """
    found = next(filter(None, map(shutil.which, QUANTIZERS)), None)
    if not found:
        raise ConfigError(
            f"merge.gguf_types includes {', '.join(QUANTIZED)}, which needs llama.cpp's llama-quantize on the PATH: "
            "build llama.cpp, or use q8_0."
        )
    return found


def way_to_write(model: Path, given: str | None) -> Path | None:
    """Return llama.cpp's converter, or None where this workflow writes the file itself.

    Args:
        model: a folder with the model's configuration and tokenizer.
        given: ``merge.gguf_converter``.

    Raises:
        ConfigError: if neither can.
    """
    try:
        return find_converter(given)
    except ConfigError as error:
        if given:
            raise
        why = "the package gguf is not installed" if find_spec("gguf") is None else refusal(model)
        if why:
            raise ConfigError(
                f"{str(error).rstrip('.')}; the built-in writer cannot write this model, because {why}."
            ) from None
    return None


def export(wanted: Export, given: str | None, target: Path) -> None:
    """Write ``target``, which appears only when it is whole.

    Args:
        wanted: the model and the type.
        given: ``merge.gguf_converter``.
        target: the file.

    Raises:
        ConfigError: if what makes such a file is missing.
        TrainingError: if it fails.
    """
    converter = way_to_write(wanted.model, given)
    quantizer = find_quantizer() if wanted.type in QUANTIZED else None
    first = GGUF_DTYPES[wanted.dtype] if quantizer else wanted.type
    with private_folder(sibling(target)) as folder:
        made = folder / target.name
        if converter:
            convert_to_gguf(converter, wanted.model, first, made)
        else:
            write_gguf(wanted.model, first, made)
        if quantizer:
            made = _quantized(quantizer, made, QUANTIZED[wanted.type])
        sync_tree(folder)
        made.replace(target)
        sync_directory(target.parent)


def _quantized(quantizer: str, file: Path, kind: str) -> Path:
    target = file.with_suffix(".quantized")
    run_tool([quantizer, str(file), str(target), kind], target, f"{quantizer} did not write {kind} ({{}}).")
    return target


def check(wanted: Export, file: Path, rows: PackedRows) -> ExportCheck:
    """Return how far the model in ``file`` deviates from the merged one on held-out rows, or why that is unknown.

    Raises:
        TrainingError: if it is so far that the file must be wrong.
    """
    settings = ModelSettings(dtype="float32")
    size = sum(path.stat().st_size for path in wanted.model.glob("*.safetensors"))
    needed = EXPORT_MEMORY * size * 4 / torch.finfo(getattr(torch, wanted.dtype)).bits * 8
    if not len(rows):
        return _unknown("no record is held out")
    if needed > psutil.virtual_memory().available:
        return _unknown(f"reading it takes {needed / 1e9:,.1f} GB of memory, more than is free")
    with tempfile.TemporaryFile() as spool:
        merged = load_model(wanted.model, settings, torch.device("cpu"))
        comparing = Comparing(spool, rows, settings, kl_stride(rows, merged.config.get_text_config().vocab_size))
        comparing.read_first(merged)
        del merged
        free_memory()
        try:
            exported = _load(file)
        except (ValueError, KeyError, OSError, ImportError, RuntimeError, NotImplementedError) as error:
            return _unknown(f"transformers cannot load it ({' '.join(str(error).split())[:200]})")
        found = comparing.read_second(exported)
    kl, limit = found.kl.value, MOST_KL[wanted.type]
    if not kl <= limit:
        raise TrainingError(
            f"{file}: the exported model differs from the merged one by {kl:.3g} nats per token (limit {limit:g}):"
            " the file is wrong; please report this with the model's name."
        )
    print(
        f"The file's loss is {found.second_loss:.4f}, the merged model's {found.first_loss:.4f}; KL {kl:.2g} nats.",
        flush=True,
    )
    losses: ExportCheck = {"checked": True, "merged_loss": found.first_loss, "exported_loss": found.second_loss}
    return {**losses, "mean_kl": kl, "tokens": found.tokens}


def _load(file: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32).eval()


def _unknown(reason: str) -> ExportCheck:
    print(f"Not compared with the merged model: {reason}.", flush=True)
    return {"checked": False, "reason": reason}
