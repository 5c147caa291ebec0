"""The optimisations of the well-known guides, each with how it is off, how it is on, and why it may not show here.

Two ends are compared: the slow way of the guides (`baseline`) and the fast one (`fast`). A factor is a group of
settings in which they differ. Switched on alone it is measured from the slow end, switched off alone from the fast end.
Others are no part of either end and are measured beside the fast one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

GUIDES_LENGTH = 2048
"""Tokens that the guides pad to."""
GUIDES_RANK = 64
GUIDES_SAVE_STEPS = 100
BASELINE, FAST = "baseline", "fast"


@dataclass(frozen=True, slots=True)
class CaseSetting:
    """All that may differ between two cases; the rest of the run's configuration is the same in all of them."""

    row_length: int
    packing: bool
    places: int
    """Tokens, padding included, in one forward pass."""
    tf32: bool
    bf16: bool
    recomputes: bool | str
    """``gradient_checkpointing``."""
    compiles: bool
    workers: int
    """Loader processes; with any there are prefetched and page-locked batches, too."""
    rank: int
    """0 without an adapter."""
    quantization: str

    @property
    def rows(self) -> int:
        """Return the rows in one forward pass: as many places in all cases, as nearly as whole rows allow."""
        return max(1, int(self.places / self.row_length + 0.5))


@dataclass(frozen=True, slots=True)
class Situation:
    """What of the run and of the machine decides which factors can be shown."""

    own_places: int
    """Tokens in one forward pass of the run as it is configured."""
    right_length: int
    long_length: int
    """Rows as long as the data need, and as the guides have them."""
    context: int | None
    longest: int
    """Tokens of the longest document that is trained on."""
    rank: int
    quantization: str
    is_cpu: bool
    has_bf16: bool
    has_compiler: bool
    has_bitsandbytes: bool
    cores: int
    device: str
    """Its name, for people."""


@dataclass(frozen=True, slots=True)
class Factor:
    """An optimisation: the fields of :class:`CaseSetting` that it consists of, none where no training shows it."""

    name: str
    title: str
    fields: tuple[str, ...]


STAGING = Factor("staging", "Copy on a fast disk", ())
PRETOKENISING = Factor("pretokenising", "Tokenised beforehand", ())
CADENCE = Factor("cadence", "Fewer checkpoints", ())
RIGHT_SIZING = Factor("right_sizing", "Right-sized rows", ("row_length",))
PACKING = Factor("packing", "Packed rows", ("packing",))
ROWS_AT_ONCE = Factor("accumulation", "More rows at once", ("places",))
TF32 = Factor("tf32", "TF32", ("tf32",))
BF16 = Factor("bf16", "bfloat16", ("bf16",))
RECOMPUTATION = Factor("checkpointing", "No recomputation", ("recomputes",))
COMPILING = Factor("compile", "Compiled layers", ("compiles",))
RANK = Factor("rank", "Smaller rank", ("rank",))
WORKERS = Factor("workers", "Loader processes", ("workers",))
QUANTISATION = Factor("quantization", "No quantisation", ("quantization",))
FACTORS = (
    *(STAGING, PRETOKENISING, RIGHT_SIZING, PACKING, ROWS_AT_ONCE, TF32, BF16, RECOMPUTATION, COMPILING, CADENCE),
    *(WORKERS, RANK, QUANTISATION),
)
NAMES = tuple(factor.name for factor in FACTORS)


def slow_end(here: Situation) -> CaseSetting:
    """Return the settings of the guides' `baseline`: float32, padded, one row at a time, everything recomputed."""
    return CaseSetting(
        row_length=here.long_length,
        packing=False,
        places=here.long_length,
        tf32=False,
        bf16=False,
        recomputes=True,
        compiles=False,
        workers=0,
        rank=here.rank,
        quantization=here.quantization,
    )


def fast_end(here: Situation) -> CaseSetting:
    """Return the settings of `fast`; on a CPU it compiles nothing and knows neither TF32 nor bfloat16."""
    return CaseSetting(
        row_length=here.right_length,
        packing=True,
        places=max(here.own_places, here.right_length),
        tf32=here.has_bf16,
        bf16=here.has_bf16,
        recomputes=False if here.is_cpu else "auto",
        compiles=not here.is_cpu,
        workers=0,
        rank=here.rank,
        quantization=here.quantization,
    )


def beside(here: Situation) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return the factors that neither end is about: fields when off and when on, beside the fast end."""
    off_rank = GUIDES_RANK if here.rank < GUIDES_RANK else 2 * here.rank
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        WORKERS.name: ({"workers": 0}, {"workers": min(4, max(2, here.cores))}),
        RANK.name: ({"rank": off_rank}, {"rank": here.rank}),
        QUANTISATION.name: (
            {"quantization": "4bit" if here.quantization == "none" else here.quantization},
            {"quantization": "none"},
        ),
    }
    return found | ({COMPILING.name: ({"compiles": False}, {"compiles": True})} if here.is_cpu else {})


def obstacle(factor: Factor, here: Situation) -> str:
    """Return why a factor cannot be shown on this machine or with this run, empty if it can.

    What needs a try (whether there is memory for it, say) is only known from the case itself.
    """
    if factor in (TF32, BF16) and here.is_cpu:
        return {
            TF32: "TF32 is a number format of NVIDIA GPUs from Ampere on; this is a CPU",
            BF16: "a CPU computes bfloat16 many times slower than float32; it is for GPUs",
        }[factor]
    if factor in (TF32, BF16) and not here.has_bf16:
        return f"{here.device} has neither TF32 nor bfloat16"
    if factor == RIGHT_SIZING and here.right_length == here.long_length:
        return (
            f"the longest document has {here.longest:,} tokens and the guides' length,"
            f" {min(GUIDES_LENGTH, here.context or GUIDES_LENGTH):,}, gives no longer rows than the data need"
        )
    if factor == ROWS_AT_ONCE and here.own_places < 1.5 * here.long_length:
        return "train.per_device_train_batch_size is no more than one of the longer rows"
    if factor == COMPILING and here.is_cpu and not here.has_compiler:
        return "compiling for a CPU needs a C++ compiler (g++ or clang++), which is not installed"
    return _obstacle_of_method(factor, here)


def _obstacle_of_method(factor: Factor, here: Situation) -> str:
    if factor == RANK and not here.rank:
        return "all weights are trained, so there is no rank"
    if factor == QUANTISATION:
        if not here.rank:
            return "all weights are trained, and quantised ones cannot be"
        if not here.has_bitsandbytes:
            return "the package bitsandbytes is not installed: pip install -r envs/extras/quantization.txt"
    return ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A factor measured: two settings that differ in it alone; ``where`` says from which end."""

    factor: Factor
    where: str
    off: CaseSetting
    on: CaseSetting


def pairs_of(here: Situation, shown: tuple[Factor, ...]) -> tuple[CaseSetting, CaseSetting, list[Pair]]:
    """Return both ends and the pairs of settings that are to be measured.

    A factor that is not shown has the same setting everywhere, that of the fast end.

    Args:
        here: the run and the machine.
        shown: the factors that have no obstacle.
    """
    slow, fast = slow_end(here), fast_end(here)
    hidden = [factor for factor in FACTORS if factor not in shown]
    slow = replace(slow, **_fields(fast, [name for factor in hidden for name in factor.fields]))
    found = []
    others = beside(here)
    for factor in shown:
        if not factor.fields:
            continue
        if factor.name in others:
            off, on = others[factor.name]
            found.append(Pair(factor, "beside", replace(fast, **off), replace(fast, **on)))
            continue
        found.append(Pair(factor, BASELINE, slow, replace(slow, **_fields(fast, factor.fields))))
        found.append(Pair(factor, FAST, replace(fast, **_fields(slow, factor.fields)), fast))
    return slow, fast, found


def _fields(setting: CaseSetting, names: Any) -> dict[str, Any]:
    return {name: getattr(setting, name) for name in names}


def configured(cfg: Mapping[str, Any], setting: CaseSetting, tokens_per_row: float, step_tokens: float, seed: int):
    """Return the ``train``, ``adapter`` and ``model`` sections of a case.

    Every case sees about as many real tokens per optimizer step, so that all are the same training: accumulation
    follows from that, or packing would silently make the batch several times larger.

    Args:
        cfg: the sections of the run.
        setting: of the case.
        tokens_per_row: real tokens in a row, on average.
        step_tokens: real tokens per optimizer step of the run.
        seed: of this repeat.
    """
    accumulation = max(1, round(step_tokens / (setting.rows * tokens_per_row)))
    train = {
        **cfg["train"],
        "per_device_train_batch_size": setting.rows,
        "gradient_accumulation_steps": accumulation,
        "optimizer_in_backward": False,  # the same steps, but without accumulation
        "bf16": setting.bf16,
        "fp16": False,
        "tf32": setting.tf32,
        "gradient_checkpointing": setting.recomputes,
        "checkpoint_every_n_layers": 1,
        "torch_compile": setting.compiles,
        "seed": seed,
    }
    model = {**cfg["model"], "quantization": setting.quantization}
    if not setting.bf16:
        model["dtype"] = "float32"
    return {"train": train, "adapter": _adapter(cfg["adapter"], setting.rank), "model": model}


def _adapter(section: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Return the adapter with another rank at the same scale, starting anew."""
    kept = {name: value for name, value in section.items() if name not in ("init_from", "start")}
    if section.get("type", "lora") != "lora" or rank == section["r"]:
        return kept
    return {**kept, "r": rank, "lora_alpha": section["lora_alpha"] * rank / section["r"]}


def loading(settings: Mapping[str, Any], setting: CaseSetting) -> dict[str, Any]:
    """Return the operational settings of a case."""
    has_workers = setting.workers > 0
    return {
        **settings,
        "dataloader_num_workers": setting.workers,
        "dataloader_prefetch_factor": 4 if has_workers else None,
        "dataloader_pin_memory": has_workers,
    }


WORDS: dict[str, dict[Any, str]] = {
    "packing": {True: "packed", False: "one document in a row"},
    "tf32": {True: "TF32", False: "exact float32"},
    "bf16": {True: "bfloat16", False: "float32"},
    "recomputes": {True: "every layer recomputed", False: "nothing recomputed", "auto": "as little as memory needs"},
    "compiles": {True: "compiled", False: "not compiled"},
    "quantization": {"none": "not quantised", "8bit": "8 bit", "4bit": "4 bit"},
}


def words(factor: Factor, setting: CaseSetting) -> str:
    """Return how a setting has a factor, for people."""
    return ", ".join(_word(setting, name) for name in factor.fields)


def _word(setting: CaseSetting, name: str) -> str:
    value = getattr(setting, name)
    if name in WORDS:
        return WORDS[name][value]
    if name == "row_length":
        return f"rows of {value:,} tokens"
    if name == "places":
        return f"{setting.rows} row{'' if setting.rows == 1 else 's'} at once, the rest accumulated"
    if name == "workers":
        return f"{value}, prefetching, pinned memory" if value else "none"
    return f"rank {value}"
