"""The optimisations of well-known guides: each with its off and on settings, and when it cannot be shown.

Two configurations are compared: the slow one of the guides (`baseline`) and the fast one (`fast`). A factor is a group
of settings in which they differ. It is measured by switching it on alone in the slow configuration, and off alone in
the fast one. Other factors belong to neither and are measured against the fast configuration.
"""

from dataclasses import dataclass, replace
from typing import Any

GUIDES_LENGTH = 2048
"""Tokens that the guides pad to."""
GUIDES_RANK = 64
GUIDES_SAVE_STEPS = 100
BASELINE, FAST = "baseline", "fast"
OPTIMIZERS_8BIT = ("adamw_8bit", "paged_adamw_8bit", "adamw_torch_8bit")


@dataclass(frozen=True, slots=True)
class CaseSetting:
    """All settings that may differ between cases; the rest of the run's configuration is the same in all of them."""

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
    """Loader processes; with any, batches are prefetched and page-locked."""
    rank: int
    """0 without an adapter."""
    quantization: str
    optim: str
    liger: bool | str
    """``use_liger_kernel``."""
    offloads: bool
    """``activation_offloading``."""
    fp8: bool | str
    shares: bool
    """Common prefixes of the documents in a forward pass are computed once."""

    @property
    def rows(self) -> int:
        """Return the rows in one forward pass, so that all cases have about the same number of positions."""
        return max(1, int(self.places / self.row_length + 0.5))


@dataclass(frozen=True, slots=True)
class AblationSituation:
    """The facts of run and machine that decide which factors can be shown."""

    own_places: int
    """Tokens in one forward pass of the run as it is configured."""
    right_length: int
    long_length: int
    """Row lengths: as the data need, and as the guides use."""
    context: int | None
    longest: int
    """Tokens of the longest training document."""
    rank: int
    quantization: str
    is_cpu: bool
    has_bf16: bool
    has_compiler: bool
    has_bitsandbytes: bool
    has_liger: bool
    has_torchao: bool
    optim: str
    offloads: bool
    fp8: bool | str
    cores: int
    device: str
    """Display name."""


@dataclass(frozen=True, slots=True)
class Factor:
    """An optimisation: the fields of :class:`CaseSetting` that it changes; empty if it is outside training."""

    name: str
    title: str
    fields: tuple[str, ...]


STAGING = Factor("staging", "Copy on a fast disk", ())
PRETOKENISING = Factor("pretokenising", "Tokenised beforehand", ())
SAVE_INTERVAL = Factor("save_interval", "Fewer checkpoints", ())
RIGHT_SIZING = Factor("right_sizing", "Right-sized rows", ("row_length",))
PACKING_FACTOR = Factor("packing", "Packed rows", ("packing",))
MICRO_BATCH_FACTOR = Factor("accumulation", "Larger micro-batch", ("places",))
TF32 = Factor("tf32", "TF32", ("tf32",))
BF16 = Factor("bf16", "bfloat16", ("bf16",))
RECOMPUTATION = Factor("checkpointing", "No recomputation", ("recomputes",))
COMPILING = Factor("compile", "Compiled layers", ("compiles",))
RANK_FACTOR = Factor("rank", "Smaller rank", ("rank",))
WORKERS_FACTOR = Factor("workers", "Loader processes", ("workers",))
QUANTISATION = Factor("quantization", "No quantisation", ("quantization",))
# Compiled layers are fused already, so the kernels of liger-kernel are measured instead of compilation.
LIGER = Factor("liger", "Fused kernels instead of compiled layers", ("liger", "compiles"))
OPTIMIZER = Factor("optimizer", "8-bit optimizer", ("optim",))
OFFLOADING = Factor("offloading", "Activations in RAM", ("offloads",))
FP8 = Factor("fp8", "float8", ("fp8",))
PREFIXES = Factor("prefixes", "Shared prefixes", ("shares",))
ON_GPUS_ONLY = {
    LIGER: "the kernels of liger-kernel are for GPUs; this is a CPU",
    OPTIMIZER: "an 8-bit optimizer saves memory of a GPU; this is a CPU",
    OFFLOADING: "activations of a training on a CPU are in RAM already",
    FP8: "float8 is a format of NVIDIA GPUs from Ada on; this is a CPU",
}
FACTORS = (
    *(
        STAGING,
        PRETOKENISING,
        RIGHT_SIZING,
        PACKING_FACTOR,
        MICRO_BATCH_FACTOR,
        TF32,
        BF16,
        RECOMPUTATION,
        COMPILING,
        SAVE_INTERVAL,
    ),
    *(WORKERS_FACTOR, RANK_FACTOR, QUANTISATION, LIGER, OPTIMIZER, OFFLOADING, FP8, PREFIXES),
)
FACTOR_NAMES = tuple(factor.name for factor in FACTORS)


def _of_the_run(here: AblationSituation) -> dict[str, Any]:
    """Return the settings that neither end changes."""
    return {
        "rank": here.rank,
        "quantization": here.quantization,
        "optim": here.optim,
        "liger": False,
        "offloads": here.offloads,
        "fp8": here.fp8,
        # Training on a CPU shares them, but then the rows alone would not say how many operations a case takes.
        "shares": False,
    }


def slow_end(here: AblationSituation) -> CaseSetting:
    """Return the settings of the guides' `baseline`: float32, padded, a micro-batch of 1, everything recomputed."""
    return CaseSetting(
        row_length=here.long_length,
        packing=False,
        places=here.long_length,
        tf32=False,
        bf16=False,
        recomputes=True,
        compiles=False,
        workers=0,
        **_of_the_run(here),
    )


def fast_end(here: AblationSituation) -> CaseSetting:
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
        **_of_the_run(here),
    )


def factors_of_neither_end(here: AblationSituation) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return the factors that belong to neither end: their fields when off and on, against the fast end."""
    off_rank = GUIDES_RANK if here.rank < GUIDES_RANK else 2 * here.rank
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        WORKERS_FACTOR.name: ({"workers": 0}, {"workers": min(4, max(2, here.cores))}),
        RANK_FACTOR.name: ({"rank": off_rank}, {"rank": here.rank}),
        QUANTISATION.name: (
            {"quantization": "4bit" if here.quantization == "none" else here.quantization},
            {"quantization": "none"},
        ),
        LIGER.name: ({"liger": False, "compiles": True}, {"liger": True, "compiles": False}),
        OPTIMIZER.name: (
            {"optim": "adamw_torch_fused" if here.optim in OPTIMIZERS_8BIT else here.optim},
            {"optim": here.optim if here.optim in OPTIMIZERS_8BIT else OPTIMIZERS_8BIT[0]},
        ),
        OFFLOADING.name: ({"offloads": False}, {"offloads": True}),
        FP8.name: ({"fp8": False}, {"fp8": here.fp8 or True}),
        PREFIXES.name: ({"shares": False}, {"shares": True}),
    }
    return found | ({COMPILING.name: ({"compiles": False}, {"compiles": True})} if here.is_cpu else {})


def obstacle(factor: Factor, here: AblationSituation) -> str:
    """Return why a factor cannot be shown on this machine or with this run; an empty string if it can.

    Obstacles such as lack of memory only appear when the case runs.
    """
    if factor in (TF32, BF16) and here.is_cpu:
        return {
            TF32: "TF32 is a dtype of NVIDIA GPUs from Ampere on; this is a CPU",
            BF16: "a CPU computes bfloat16 many times slower than float32; it is for GPUs",
        }[factor]
    if factor in (TF32, BF16) and not here.has_bf16:
        return f"{here.device} has neither TF32 nor bfloat16"
    if factor == RIGHT_SIZING and here.right_length == here.long_length:
        return (
            f"the longest document has {here.longest:,} tokens and the guides' length,"
            f" {min(GUIDES_LENGTH, here.context or GUIDES_LENGTH):,}, gives no longer rows than the data need"
        )
    if factor == MICRO_BATCH_FACTOR and here.own_places < 1.5 * here.long_length:
        return "train.per_device_train_batch_size is no more than one of the longer rows"
    if factor == COMPILING and here.is_cpu and not here.has_compiler:
        return "compiling for a CPU needs a C++ compiler (g++ or clang++), which is not installed"
    return _obstacle_of_method(factor, here)


def _obstacle_of_method(factor: Factor, here: AblationSituation) -> str:
    if factor == PREFIXES and not here.is_cpu:
        return "prefixes are shared in training on a CPU only"
    if factor == RANK_FACTOR and not here.rank:
        return "all weights are trained, so there is no rank"
    if factor == QUANTISATION and not here.rank:
        return "all weights are trained, and quantised ones cannot be"
    if factor == QUANTISATION and here.fp8:
        return "train.fp8 is on, and float8 is for layers that are not quantised"
    if factor == FP8 and here.quantization != "none" and not here.is_cpu:
        return "float8 is for layers that are not quantised"
    if here.is_cpu and factor in ON_GPUS_ONLY:
        return ON_GPUS_ONLY[factor]
    return _missing_package(factor, here)


def _missing_package(factor: Factor, here: AblationSituation) -> str:
    package, extra, is_there = {
        QUANTISATION: ("bitsandbytes", "quantization", here.has_bitsandbytes),
        OPTIMIZER: ("bitsandbytes", "quantization", here.has_bitsandbytes),
        LIGER: ("liger-kernel", "liger", here.has_liger),
        FP8: ("torchao", "float8", here.has_torchao),
    }.get(factor, ("", "", True))
    return "" if is_there else f"the package {package} is not installed: pip install -r envs/extras/{extra}.txt"


@dataclass(frozen=True, slots=True)
class FactorPair:
    """A factor to measure: two settings that differ in it alone; ``where`` is the end."""

    factor: Factor
    where: str
    off: CaseSetting
    on: CaseSetting


def pairs_of(here: AblationSituation, shown: tuple[Factor, ...]) -> tuple[CaseSetting, CaseSetting, list[FactorPair]]:
    """Return both ends and the pairs of settings to measure.

    A factor that is not shown has the same setting everywhere, that of the fast end.

    Args:
        here: the run and the machine.
        shown: the factors that have no obstacle.
    """
    slow, fast = slow_end(here), fast_end(here)
    others = factors_of_neither_end(here)
    hidden = [factor for factor in FACTORS if factor not in shown and factor.name not in others]
    slow = replace(slow, **_fields(fast, [name for factor in hidden for name in factor.fields]))
    found = []
    for factor in shown:
        if not factor.fields:
            continue
        if factor.name in others:
            off, on = others[factor.name]
            found.append(FactorPair(factor, "beside", replace(fast, **off), replace(fast, **on)))
            continue
        found.append(FactorPair(factor, BASELINE, slow, replace(slow, **_fields(fast, factor.fields))))
        found.append(FactorPair(factor, FAST, replace(fast, **_fields(slow, factor.fields)), fast))
    return slow, fast, found


def _fields(setting: CaseSetting, names: Any) -> dict[str, Any]:
    return {name: getattr(setting, name) for name in names}
