"""Activation offloading: saved tensors wait in pinned RAM, and copies overlap with computation.

Tensors that autograd saves are copied to the host on a separate stream and prefetched in reverse order (the scheme of
torchtune and TRL). Two events have to be waited for, by the GPU's stream and never by the host: a tensor is freed only
after its copy, and a copy is used only once it has arrived. The bytes in flight are bounded, so that the memory of a
step is known in advance.
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

# Bytes in flight, in each direction; and the size below which a tensor is not worth a copy.
ON_THE_WAY = 1 << 29
SMALLEST_OFFLOADED = 1 << 16


@dataclass(slots=True)
class Away:
    """A tensor that is in RAM, or being copied there or back.

    Attributes:
        host: the copy in RAM.
        number: index among those of the step.
        back: the tensor on the device again, and the event after which it is complete.
        used: number of pending uses by autograd.
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
        """Tell whether a tensor is on the GPU."""
        return tensor.is_cuda

    def to_host(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Return the copy of a dense tensor, with its strides, and the event after which it is complete."""
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        return host, self._copy(host, tensor)

    def to_device(self, host: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, Any]:
        """Return the tensor on the device and the event after which it is complete."""
        # Allocated on the compute stream: the copy has to wait for earlier users of that memory.
        tensor = torch.empty_like(host, device=device)
        return tensor, self._copy(tensor, host)

    def wait(self, event: Any) -> None:
        """Make the compute stream wait for an event."""
        torch.cuda.current_stream().wait_event(event)

    def _copy(self, target: torch.Tensor, source: torch.Tensor) -> Any:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            return self._stream.record_event()


class Shelf:
    """The saved tensors of one forward pass, in RAM until its backward pass needs them.

    Autograd's hooks refer to it, but it to no hook: it is freed with the graph, without the garbage collector.

    Args:
        lane: makes the copies.
        stays: storages that are not moved: those of weights.
        limit: bytes in flight.
        smallest: bytes from which a tensor is moved.
    """

    def __init__(self, lane: Any, stays: frozenset[int], limit: int = ON_THE_WAY, smallest: int = SMALLEST_OFFLOADED):
        self._lane, self._stays, self._limit, self._smallest = lane, stays, limit, smallest
        self._away: list[Away | None] = []
        self._known: dict[tuple[Any, ...], tuple[StorageWeakRef, Away]] = {}
        self._leaving: deque[tuple[torch.Tensor, Any]] = deque()
        self._leaving_bytes = self._coming_bytes = 0
        self._next = -1

    def keep(self, tensor: torch.Tensor) -> torch.Tensor | tuple[Away, torch.device]:
        """Offload a tensor and return a handle to it, or the tensor itself if it is not worth moving."""
        if not self._moves(tensor):
            return tensor
        storage = tensor.untyped_storage()
        # The version is part of the key: a tensor that was changed in place is another tensor.
        key = (storage._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version)
        if key in self._known and not self._known[key][0].expired():  # saved by another operation as well
            away = self._known[key][1]
            away.used += 1
        else:
            away = self._send(tensor)
            # While the weak reference is held, no other storage can get the same address.
            self._known[key] = StorageWeakRef(storage), away
        return away, tensor.device

    def _moves(self, tensor: torch.Tensor) -> bool:
        return (
            type(tensor) is torch.Tensor
            and self._lane.takes(tensor)
            and tensor.nbytes >= self._smallest
            and tensor.untyped_storage()._cdata not in self._stays
            # Only a tensor without gaps keeps its strides in a copy.
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
        self._lane.wait(event)  # the compute stream may reuse its memory from here on
        self._leaving_bytes -= tensor.nbytes

    def take(self, kept: torch.Tensor | tuple[Away, torch.device]) -> torch.Tensor:
        """Return a saved tensor, and prefetch those that will be needed next."""
        if isinstance(kept, torch.Tensor):
            return kept
        # self._let_go() away, device
        while self._leaving:
            self._let_go()
        away, device = kept
        tensor, event = away.back or self._call_back(away, device)
        self._lane.wait(event)
        away.used -= 1
        if away.used <= 0:  # a second request by the same operation gets another copy
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


def offload_activations(model: Any, lane: Any = None, smallest: int = SMALLEST_OFFLOADED) -> None:
    """Offload the tensors that the layers of ``model`` save for their backward pass; those of the loss stay.

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
        # Evaluation saves nothing for a backward pass.
        if not torch.is_grad_enabled():
            return original(*args, **kwargs)
        # Collected in each forward pass, because sharding and casting replace parameters.
        parts = (*model.parameters(), *model.buffers())
        shelf = Shelf(lane, frozenset(part.untyped_storage()._cdata for part in parts), smallest=smallest)
        with saved_tensors_hooks(shelf.keep, shelf.take):
            return original(*args, **kwargs)

    body.forward = forward
