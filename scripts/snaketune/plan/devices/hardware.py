"""The catalogue of devices: memory, peak FLOP/s, prices; missing values are unknown, never guessed.

The figures with their sources are in ``config/hardware.yaml``. Only yaml is needed to read it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from snaketune.core.errors import ConfigError

T = TypeVar("T")
CATALOGUE = Path(__file__).resolve().parents[4] / "config" / "hardware.yaml"
THIS_MACHINE = "auto"
"""Stands for the device of this machine instead of an id."""
DEVICE_DTYPES = {
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
    "int8": "int8",
    "fp8": "fp8",
    "float8": "fp8",
    "float8_e4m3fn": "fp8",
}


@dataclass(frozen=True, slots=True)
class Price:
    """A price in US dollars, with the day it was true (None if its source does not say)."""

    usd: float
    day: date | None
    source: str


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of device; None is unknown or not supported."""

    id: str
    title: str
    names: tuple[str, ...]
    memory_gb: float | None
    tflops: dict[str, float | None]
    """Dense peak rates in TFLOP/s (int8: TOP/s) by dtype: bf16, fp16, int8, fp8."""
    bandwidth: float | None
    """GB/s."""
    link: float | None
    """To another one of its kind in the same machine, GB/s in one direction."""
    watts: float | None
    buy: Price | None
    rent: Price | None
    """Per device and hour."""
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LadderStep:
    """A step of the ladder: its devices, and what they cost to use."""

    id: str
    title: str
    pays: str
    """``electricity`` for one's own device, or ``rent``."""
    devices: tuple[str, ...]
    """Ids of the catalogue."""


def load_catalogue(path: Path = CATALOGUE) -> tuple[Hardware, ...]:
    """Return the devices in the catalogue at ``path``, in its order.

    Raises:
        ConfigError: if the file is missing or an entry lacks a field.
    """
    return _load(path, "devices", _device)


def load_ladder(path: Path = CATALOGUE) -> tuple[LadderStep, ...]:
    """Return the steps of the ladder in the catalogue at ``path``, in its order.

    Raises:
        ConfigError: if the file is missing, an entry lacks a field or names a device that is not in the catalogue.
    """
    steps = _load(path, "ladder", _step)
    known = {device.id for device in load_catalogue(path)}
    for step in steps:
        for name in step.devices:
            if name not in known:
                raise ConfigError(f"config/hardware.yaml: ladder {step.id} has {name!r}: use an id of its devices.")
    return steps


def _load(path: Path, name: str, make: Callable[[dict[str, Any]], T]) -> tuple[T, ...]:
    try:
        return tuple(make(entry) for entry in _parsed(path.read_text(encoding="utf-8"))[name])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise ConfigError(
            f"config/hardware.yaml cannot be used ({what}): correct it or restore the project's version."
        ) from (error)


@cache
def _parsed(text: str) -> Any:
    """Parse the catalogue once per process: every run's plan reads it."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _step(entry: dict[str, Any]) -> LadderStep:
    return LadderStep(entry["id"], entry["title"], entry["pays"], tuple(entry["devices"]))


def _device(entry: dict[str, Any]) -> Hardware:
    return Hardware(
        id=entry["id"],
        title=entry["title"],
        names=tuple(entry["names"]),
        memory_gb=entry["memory_gb"],
        tflops=dict(entry["tflops"]),
        bandwidth=entry["bandwidth"],
        link=entry["link"],
        watts=entry["watts"],
        buy=_price(entry["buy_usd"]),
        rent=_price(entry["rent_usd_per_hour"]),
        sources=tuple(entry["sources"]),
    )


def _price(entry: dict[str, Any] | None) -> Price | None:
    return Price(entry["price"], entry["date"], entry["source"]) if entry else None


def catalogue_digest(path: Path = CATALOGUE) -> str:
    """Return a digest of the parsed catalogue, which comments do not change."""
    devices = [*map(asdict, load_catalogue(path)), *map(asdict, load_ladder(path))]
    return hashlib.blake2b(repr(devices).encode(), digest_size=8).hexdigest()


@cache
def _by_name() -> dict[str, Hardware]:
    return {_normal(name): device for device in load_catalogue() for name in (*device.names, device.id)}


def _normal(name: str) -> str:
    return " ".join(name.lower().split())


def find_hardware(name: str) -> Hardware | None:
    """Return the device with this id, or with this name of ``torch.cuda.get_device_name()``; None if unknown.

    The whole name must match: an H100 PCIe is slower than an H100 SXM, a laptop's RTX 4090 than a desktop's, and a
    slice of a GPU (MIG) than the GPU.
    """
    return _by_name().get(_normal(name))


def peak_flops(name: str, dtype: str = "bfloat16") -> float | None:
    """Return the dense peak rate of a device in FLOP/s, None if the device or its rate is not known.

    Args:
        name: what ``torch.cuda.get_device_name()`` returns, or an id of the catalogue.
        dtype: bfloat16, float16, int8 or fp8, also as ``str(torch.bfloat16)``.
    """
    device = find_hardware(name)
    number_format = DEVICE_DTYPES.get(dtype.removeprefix("torch."))
    rate = device.tflops.get(number_format) if device and number_format else None
    return rate * 1e12 if rate else None
