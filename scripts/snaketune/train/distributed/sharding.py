"""Weights that are shared out over processes, put together again."""

from collections.abc import Callable

import torch
from torch.distributed.tensor import DTensor


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a sharded tensor, or a norm over sharded gradients, as an ordinary tensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather_state_dict(
    model: torch.nn.Module, keep: bool, assembled: Callable[[torch.Tensor], torch.Tensor] = full_tensor
) -> dict[str, torch.Tensor]:
    """Return what of a sharded model was trained, by name, in memory; every process takes part.

    Args:
        model: all of its weights when it has no adapter.
        keep: whether this process wants the result; otherwise it is empty.
        assembled: puts a weight together.
    """
    trained = [(name, each) for name, each in model.named_parameters(remove_duplicate=False) if each.requires_grad]
    tensors: dict[int, torch.Tensor] = {}
    for _, weight in trained:
        if id(weight) not in tensors:
            tensor = assembled(weight).detach()
            tensors[id(weight)] = tensor.cpu() if keep else tensor.new_empty(0)
    return {name: tensors[id(weight)] for name, weight in trained} if keep else {}
