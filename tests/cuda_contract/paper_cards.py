"""Cards on paper: what torch says about a GPU, and a CPU that answers in its place.

Every call that names a CUDA device goes to the CPU, autocast for CUDA is the CPU's, and everything that would make the
host wait for a GPU is counted. So the code that runs on a GPU runs here, dtypes and all, with a CPU's kernels.
torch's own fake tensors cannot do that: a build without CUDA ends the process at their first gradient.
"""

import contextlib
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Card:
    """What torch says about a GPU."""

    name: str
    capability: tuple[int, int]
    gigabytes: float
    count: int = 1

    @property
    def has_bf16(self) -> bool:
        return self.capability >= (8, 0)


CARDS = {
    "4090": Card("NVIDIA GeForce RTX 4090", (8, 9), 25.3),
    "H100": Card("NVIDIA H100 80GB HBM3", (9, 0), 85.0),
    "B200": Card("NVIDIA B200", (10, 0), 191.5),
    "T4": Card("Tesla T4", (7, 5), 15.6),
    "V100": Card("Tesla V100-SXM2-16GB", (7, 0), 16.9),
    "MIG": Card("NVIDIA H100 80GB HBM3 MIG 1g.10gb", (9, 0), 10.2),
    "3060": Card("NVIDIA GeForce RTX 3060", (8, 6), 12.5),
    "two": Card("NVIDIA GeForce RTX 4090", (8, 9), 25.3, count=2),
}
# What makes the host wait: a number or a shape that has to come from the device.
WAITS = {
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.equal",
    "aten.is_nonzero",
    "aten._unique2",
    "aten.unique_consecutive",
    "aten.unique_dim",
    "aten.bincount",
    "aten.repeat_interleave",
}


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU while ``counting``."""

    def __init__(self):
        super().__init__()
        self.found: Counter[str] = Counter()
        self.counting = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func.overloadpacket)
        if self.counting and (name in WAITS or (name == "aten.index" and _has_mask(args))):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))

    def total(self) -> int:
        return self.found.total()

    @contextlib.contextmanager
    def paused(self):
        before, self.counting = self.counting, False
        try:
            yield
        finally:
            self.counting = before


def _has_mask(args) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in args[1])


class OnCpu(TorchFunctionMode):
    """Sends what names a CUDA device to the CPU, and notes how tensors get there.

    Attributes:
        copies: functions that copied a tensor or a number to the device.
        blocking: those of them for which the host waited.
    """

    def __init__(self):
        super().__init__()
        self.copies: Counter[str] = Counter()
        self.blocking: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "device":  # its name stays: only what is made there goes elsewhere
            return func(*args, **kwargs)
        if name == "pin_memory":
            return args[0]
        kwargs.pop("pin_memory", None)
        is_cuda = [_is_cuda(value) for value in (*args, *kwargs.values())]
        if any(is_cuda):
            if name in ("to", "cuda", "tensor", "as_tensor"):
                self.copies[name] += 1
                self.blocking[name] += not kwargs.get("non_blocking")
            args = tuple(_cpu(value) for value in args)
            kwargs = {key: _cpu(value) for key, value in kwargs.items()}
        return func(*args, **kwargs)


def _is_cuda(value) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.split(":")[0] == "cuda"


def _cpu(value):
    return torch.device("cpu") if _is_cuda(value) else value


@contextlib.contextmanager
def put_in(card: Card, monkeypatch):
    """Let torch find ``card``; yields the mode that sends everything to the CPU."""
    properties = SimpleNamespace(
        name=card.name, total_memory=int(card.gigabytes * 1e9), major=card.capability[0], minor=card.capability[1]
    )
    answers = {
        "is_available": True,
        "device_count": card.count,
        "get_device_capability": card.capability,
        "get_device_name": card.name,
        "get_device_properties": properties,
        "current_device": 0,
        "mem_get_info": (int(card.gigabytes * 0.95e9), int(card.gigabytes * 1e9)),
        "get_arch_list": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"],
        "max_memory_allocated": 1 << 20,
        "get_rng_state_all": [],
        **dict.fromkeys(
            ("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats", "set_rng_state_all", "_lazy_init"),
            None,
        ),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    for name in ("get_rng_state", "set_rng_state", "get_rng_state_all", "set_rng_state_all"):
        monkeypatch.setattr(torch.cuda.random, name, lambda *args, **kwargs: torch.zeros(1))
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or card.has_bf16
    )
    monkeypatch.setattr(torch, "autocast", _Autocast)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with OnCpu() as mode:
        yield mode


class _Autocast(torch.autocast):
    """Autocast of the CPU, whatever the device is called."""

    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu", *args, **kwargs)
