"""Activations in pinned RAM between the forward and the backward pass, copied beside the computing.

What autograd keeps is copied to the host on a stream of its own and comes back, ahead of its use, in the opposite
order (the scheme of torchtune and TRL). Two things have to be waited for, on the card and never by the host: a tensor
is let go only after its copy, and a copy is used only when it has arrived. How much is on its way at a time is
bounded, so that the memory of a step is known beforehand.
"""

import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from snaketune.model.architecture import body_of

# Bytes on their way at a time, in each direction; and what is too small to be worth a copy.
ON_THE_WAY = 1 << 29
SMALLEST = 1 << 16


@dataclass(slots=True)
class Away:
    """A tensor that is in RAM, or on its way there or back.

    Attributes:
        host: the copy in RAM.
        number: place among those of the step.
        back: the tensor on the device again, and the event after which it is whole.
        used: how often autograd wants it, by all that kept it.
    """

    host: torch.Tensor
    number: int
    back: tuple[torch.Tensor, Any] | None = None
    used: int = 1


class Lane:
    """Copies between a GPU and pinned RAM on a stream beside the one that computes."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def takes(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor is where copies start from."""
        return tensor.is_cuda

    def to_host(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Return the copy of a dense tensor, with its strides, and the event after which it is whole."""
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        return host, self._copy(host, tensor)

    def to_device(self, host: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, Any]:
        """Return the tensor on the device and the event after which it is whole."""
        # Of the computing stream's memory, whose earlier users the copy has to let finish.
        tensor = torch.empty_like(host, device=device)
        return tensor, self._copy(tensor, host)

    def wait(self, event: Any) -> None:
        """Let what is computed from now on wait for an event."""
        torch.cuda.current_stream().wait_event(event)

    def _copy(self, target: torch.Tensor, source: torch.Tensor) -> Any:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            return self._stream.record_event()


class Shelf:
    """What one forward pass keeps, in RAM until its backward pass takes it.

    Autograd's hooks hold it, and it holds no hook: it goes with the graph, without the garbage collector.

    Args:
        lane: copies.
        stays: storages that are not moved: those of weights.
        limit: bytes on their way at a time.
        smallest: bytes from which a tensor is moved.
    """

    def __init__(self, lane: Any, stays: frozenset[int], limit: int = ON_THE_WAY, smallest: int = SMALLEST):
        self._lane, self._stays, self._limit, self._smallest = lane, stays, limit, smallest
        self._away: list[Away | None] = []
        self._known: dict[tuple[Any, ...], tuple[StorageWeakRef, Away]] = {}
        self._leaving: deque[tuple[torch.Tensor, Any]] = deque()
        self._leaving_bytes = self._coming_bytes = 0
        self._next = -1

    def keep(self, tensor: torch.Tensor) -> torch.Tensor | tuple[Away, torch.device]:
        """Send a tensor away and return what stands for it; it stays itself where moving it is not worth it."""
        if not self._moves(tensor):
            return tensor
        storage = tensor.untyped_storage()
        key = (storage._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version)
        if key in self._known and not self._known[key][0].expired():  # another operation keeps it, too
            away = self._known[key][1]
            away.used += 1
        else:
            away = self._send(tensor)
            # As long as the weak reference is held, no other storage gets the same address.
            self._known[key] = StorageWeakRef(storage), away
        return away, tensor.device

    def _moves(self, tensor: torch.Tensor) -> bool:
        return (
            type(tensor) is torch.Tensor
            and self._lane.takes(tensor)
            and tensor.nbytes >= self._smallest
            and tensor.untyped_storage()._cdata not in self._stays
            # A copy has the same strides only of what leaves no gaps.
            and (tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride())
        )

    def _send(self, tensor: torch.Tensor) -> Away:
        host, event = self._lane.to_host(tensor)
        self._leaving.append((tensor, event))
        self._leaving_bytes += tensor.nbytes
        while self._leaving_bytes > self._limit and len(self._leaving) > 1:
            self._let_go()
        away = Away(host, len(self._away))
        self._away.append(away)
        self._next = away.number
        return away

    def _let_go(self) -> None:
        tensor, event = self._leaving.popleft()
        self._lane.wait(event)  # its memory is the computing stream's, which from here on may write to it
        self._leaving_bytes -= tensor.nbytes

    def take(self, kept: torch.Tensor | tuple[Away, torch.device]) -> torch.Tensor:
        """Return a kept tensor, and call back those that will be wanted next."""
        if isinstance(kept, torch.Tensor):
            return kept
        while self._leaving:
            self._let_go()
        away, device = kept
        tensor, event = away.back or self._call_back(away, device)
        self._lane.wait(event)
        away.used -= 1
        if away.used <= 0:  # an operation that asks twice gets another copy
            self._coming_bytes -= tensor.nbytes
            self._away[away.number] = away.back = None
        self._look_ahead(away.number, device)
        return tensor

    def _call_back(self, away: Away, device: torch.device) -> tuple[torch.Tensor, Any]:
        away.back = self._lane.to_device(away.host, device)
        self._coming_bytes += away.host.nbytes
        return away.back

    def _look_ahead(self, number: int, device: torch.device) -> None:
        self._next = min(self._next, number)
        while self._next >= 0 and self._coming_bytes < self._limit:
            away = self._away[self._next]
            if away is not None and away.back is None:
                self._call_back(away, device)
            self._next -= 1


def offload_activations(model: Any, lane: Any = None, smallest: int = SMALLEST) -> None:
    """Keep in RAM what the layers of ``model`` keep for their backward pass; the output layer's loss stays.

    Args:
        model: the causal language model, with or without an adapter, on its device.
        lane: makes copies; by default over a stream of the GPU.
        smallest: bytes from which a tensor is moved.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    body: Any = body_of(base)
    original: Callable[..., Any] = body.forward
    lane = lane or Lane()

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return original(*args, **kwargs)
        parts = (*model.parameters(), *model.buffers())
        shelf = Shelf(lane, frozenset(part.untyped_storage()._cdata for part in parts), smallest=smallest)
        with saved_tensors_hooks(shelf.keep, shelf.take):
            return original(*args, **kwargs)

    body.forward = forward
