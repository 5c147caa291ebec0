"""An ablation without a training: documents on disk, and a machine whose rates follow from the arithmetic."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from snaketune.ablate.ablation import Ablation, Subject
from snaketune.ablate.case import measure_training
from snaketune.ablate.factors import FACTOR_NAMES, AblationSituation
from snaketune.ablate.layouts import draw
from snaketune.data.tokens.token_store import TOKENS_SCHEMA, mask_array, writing_tokens
from snaketune.plan.flops import ModelShape

SHAPE = ModelShape(linear_parameters=400_000, head_parameters=100_000, layers=2, attention_width=64)
RIGHTSIZE = {"max_length": 128, "max_length_from": "configuration", "model_context": 256, "on_too_long": "drop"}
SECTIONS = {
    "train": {"seed": 42, "method": "sft", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
    "adapter": {"type": "lora", "r": 16, "lora_alpha": 32, "init_from": None},
    "model": {"dtype": "auto", "quantization": "none"},
}
SETTINGS = {"hours_between_interruptions": 24.0, "dataloader_num_workers": 0}
HERE = AblationSituation(
    own_places=512,
    right_length=64,
    long_length=128,
    context=256,
    longest=40,
    rank=16,
    quantization="none",
    is_cpu=True,
    has_bf16=False,
    has_compiler=True,
    has_bitsandbytes=True,
    has_liger=True,
    has_torchao=True,
    optim="adamw_torch_fused",
    offloads=False,
    fp8=False,
    cores=8,
    device="CPU",
)


def write_tokens(folder: Path, documents: int = 600) -> Path:
    """Write tokenised splits whose documents have 10 to 40 tokens, the second half of each trained."""
    for split, count in (("train", documents), ("eval", 20)):
        lengths = np.random.default_rng(count).integers(10, 41, count)
        ids = np.concatenate([np.arange(3, 3 + length) for length in lengths]).astype(np.int32)
        masks = np.concatenate([np.arange(length) >= length // 2 for length in lengths]).astype(np.int8)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        numbers, zeros = pa.array(range(count), pa.int64()), pa.array(np.zeros(count), pa.int32())
        columns = [
            pa.ListArray.from_arrays(offsets, pa.array(ids)),
            pa.ListArray.from_arrays(offsets, mask_array(masks)),
        ]
        columns += [
            pa.array(lengths, pa.int32()),
            zeros,
            numbers,
            zeros,
            zeros,
            pa.array([False] * count),
            pa.array([1] * count, pa.int32()),
        ]
        with writing_tokens(folder / split) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=TOKENS_SCHEMA))
    return folder


def subject(folder: Path, **changes) -> Subject:
    """A run whose documents lie in ``folder``."""
    if not (folder / "train").exists():
        write_tokens(folder)
    values = {
        "cfg": SECTIONS,
        "settings": SETTINGS,
        "model": folder / "model",
        "pad_id": 0,
        "sample": draw(folder, 128, 42),
        "records": "train.jsonl",
        "recipe": {},
        "rows": "train.arrow",
        "sources": [],
        "copies": [],
        "source_bytes": 0,
        "shape": SHAPE,
        "trained": 50_000,
        "is_full": False,
        "epoch_tokens": 15_000,
        "step_tokens": 480.0,
        "price_per_hour": 2.0,
    }
    return Subject(**{**values, **changes})


class Machine:
    """Stands for the fresh processes: a case takes what its places, its recomputation and its overhead take.

    Args:
        refused: parts of names of cases that fail.
    """

    def __init__(self, refused: tuple[str, ...] = ()):
        self.refused, self.names = refused, []

    def __call__(self, name, work, *arguments):
        self.names.append(name)
        if any(part in name for part in self.refused):
            return {"failed": f"no memory for {name}"}
        if work is measure_training:
            return {"value": self.train(arguments[0], int(name.rsplit("-", 1)[-1]) if "-" in name else 0)}
        if "tokenising" in name:
            return {"value": {"start_seconds": 0.1, "tokens_per_second": 300_000.0, "open_seconds": 0.001}}
        return {"value": {"source_bytes_per_second": 1e8, "copy_bytes_per_second": 1e9}}

    def train(self, case, number):
        train, recomputes = case.cfg["train"], case.cfg["train"]["gradient_checkpointing"] is True
        per_place = (1.5 if recomputes else 1.0) * (0.8 if train["torch_compile"] else 1.0)
        places = train["per_device_train_batch_size"] * case.layout.row_length
        seconds = case.layout.places_per_token * per_place * 1e-4 * (1 + 64 / places)
        return {
            "tokens_per_second": 1 / seconds * (1 + 0.01 * number),
            "waited_share": 0.0,
            "peak_memory_bytes": 500_000_000,
            "save_seconds": 0.05,
            "load_seconds": 0.1,
            "warmup_seconds": 30.0 if train["torch_compile"] and not number else 0.4,
            "steps": case.steps,
            "tokens": round(case.tokens),
            "held_out_loss": 1.5 + 0.01 * number,
            "engine": {"attention": "sdpa", "chunked_loss": True, "checkpoint_every": int(recomputes)},
            "rows": train["per_device_train_batch_size"],
            "accumulation": train["gradient_accumulation_steps"],
        }


def ablation(
    folder: Path, here: AblationSituation = HERE, wanted=FACTOR_NAMES, machine: Machine | None = None, **changes
) -> Ablation:
    """The ablation of a run on such a machine."""
    say = changes.pop("say", lambda line: None)
    clock = changes.pop("clock", lambda: 0.0)
    tokens = folder / "tokens"
    return Ablation(subject(tokens, **changes), here, wanted, folder / "private", machine or Machine(), say, clock)


def facts(folder: Path, **changes) -> dict:
    """The content of an ablate.json."""
    machine = {"device": "CPU", "ram_gb": 16.0, "versions": {"torch": "2.13.0"}}
    return {"run": "one", "machine": machine, **ablation(folder, **changes).run()}
