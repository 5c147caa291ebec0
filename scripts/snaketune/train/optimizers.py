"""Optimizers beyond torch's own, and optimizer steps taken within the backward pass.

8-bit states are those of bitsandbytes (Dettmers et al. 2022, arXiv:2110.02861) or torchao. Both quantise in blocks of
256 values and keep tensors of fewer than 4,096 values in float32; bitsandbytes also keeps embeddings. Paged states of
bitsandbytes are in unified memory, which CUDA migrates to RAM and back.
"""

from collections.abc import Sequence
from typing import Any

import torch

# Smaller states are never paged (bitsandbytes/optim/optimizer.py).
PAGED_FROM = 100_000


class StepsInBackward:
    """Steps each weight as soon as its gradient is complete and frees the gradient.

    The optimizer itself steps, with one weight at a time: its state, the schedule and checkpoints are unchanged, and
    the ordinary step afterwards finds no gradients.

    Args:
        optimizer: the one of the training, before accelerate wraps it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer
        self._norms: list[torch.Tensor] = []
        fix_overrides(optimizer)
        # Groups are referred to by index because loading a state replaces them.
        for number, group in enumerate(optimizer.param_groups):
            for weight in group["params"]:
                weight.register_post_accumulate_grad_hook(lambda weight, number=number: self._step(weight, number))

    def norm(self, device: torch.device) -> torch.Tensor:
        """Return the norm of all gradients since the last call, a scalar on the device."""
        norms, self._norms = self._norms, []
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), device=device)

    def _step(self, weight: torch.Tensor, number: int) -> None:
        assert weight.grad is not None
        # The gradient is gone when the step ends; the total norm is the norm of these per-weight norms.
        self._norms.append(torch.linalg.vector_norm(weight.grad, dtype=torch.float32))
        groups = self._optimizer.param_groups
        self._optimizer.param_groups = [{**groups[number], "params": [weight]}]
        try:
            type(self._optimizer).step(self._optimizer)
        finally:
            self._optimizer.param_groups = groups
        weight.grad = None


def fix_overrides(optimizer: Any) -> None:
    """Make bitsandbytes decide now which weights keep float32 states.

    It would do so at its first step, by a weight's index in its group, and each of our groups holds a single weight.
    """
    if hasattr(optimizer, "check_overrides") and not optimizer.initialized:
        optimizer.check_overrides()
        optimizer.mng.index2config.clear()  # entries by index; those by parameter remain
        optimizer.to_gpu()
        optimizer.initialized = True


def forget_overrides(optimizer: Any) -> None:
    """Clear the process-wide state of bitsandbytes: references to modules of the model, and paged memory.

    It would keep a model that ran out of memory alive, and give the next one float32 states at the same indices.
    """
    # Only optimizers of bitsandbytes have this manager, one per process.
    if hasattr(optimizer, "mng"):
        optimizer.mng.initialize()
        optimizer.page_mng.paged_tensors.clear()


def page_again(optimizer: Any) -> None:
    """Move loaded states of a paged optimizer back to paged memory; loading puts them into ordinary GPU memory."""
    if not getattr(optimizer, "is_paged", False):
        return
    for weight, state in optimizer.state.items():
        for name in ("state1", "state2"):
            # The same condition as in bitsandbytes when it creates the states: a resumed run pages what an
            # uninterrupted one does.
            if weight.device.type != "cpu" and weight.numel() >= PAGED_FROM and name in state:
                state[name] = _paged(state[name], optimizer.page_mng.paged_tensors)


def _paged(values: torch.Tensor, known: list[torch.Tensor]) -> torch.Tensor:
    from bitsandbytes import functional

    if getattr(values, "is_paged", False):
        return values
    buffer = functional.get_paged(*values.shape, dtype=values.dtype, device=values.device)
    buffer.copy_(values)
    known.append(buffer)
    return buffer


def state_tensors(optimizer: torch.optim.Optimizer) -> Sequence[torch.Tensor]:
    """Return all tensors of the optimizer's state; of torchao's quantised tensors, their components."""
    found: list[torch.Tensor] = []
    for state in optimizer.state.values():
        for value in state.values():
            names = getattr(value, "tensor_attrs", ()) if type(value) is not torch.Tensor else ()
            found += [getattr(value, name) for name in names] or [value]
    return [value for value in found if isinstance(value, torch.Tensor)]
