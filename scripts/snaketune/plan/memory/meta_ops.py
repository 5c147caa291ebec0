"""Extensions of the meta device for tracing: counting of live bytes, mixed precision, fused attention, quantisation.

This module imports torch at its top and is only imported by a trace.
"""

import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, masking_utils

functional = torch.nn.functional
LOW_PRECISION = {
    functional.linear,
    torch.matmul,
    torch.bmm,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.Tensor.bmm,
    torch.conv1d,
}
FULL_PRECISION = {functional.layer_norm, functional.group_norm}
_entered: list[torch.dtype] = []
"""Dtypes of the active mixed-precision contexts, innermost last."""
Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides and dtype of a tensor, which is all that a tensor on the meta device has."""
_layouts: dict[Any, Layout | None] = {}
"""What the operations of this process returned; None where the next one like it has to be run, too."""


def run_on_meta(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the result of an operation on the meta device; one that has been run before is looked up.

    Most operations compute the shape of their result in Python there, which takes most of the time of a trace.
    """
    effect = _effect(func)
    key = _key((func, args, tuple(kwargs.items()))) if effect else None
    if key is None:
        return func(*args, **kwargs)
    if layout := _layouts.get(key):
        return args[0] if effect == "in place" else _empty(layout)
    result = func(*args, **kwargs)
    if key not in _layouts:
        is_as_said = _layout(result) == key[1][0] if effect == "in place" else _fills_own_storage(result, args)
        _layouts[key] = _layout(result) if is_as_said else None
    return result


@cache
def _effect(func: Any) -> str:
    """Return whether an operation returns one tensor, "new" or its first argument "in place"; else nothing."""
    schema = func._schema
    if [str(value.type) for value in schema.returns] != ["Tensor"]:
        return ""
    alias = schema.returns[0].alias_info
    if alias is None:
        return "" if schema.is_mutable else "new"
    return "in place" if alias.is_write and func.overloadpacket.__name__.endswith("_") else ""


def _key(value: Any) -> Any:
    """Return what decides the result of an operation, hashable; None where the value of a tensor may decide it."""
    if isinstance(value, torch.Tensor):
        # Type promotion treats scalars by their origin, which a tensor does not show.
        return _layout(value) if value.device.type == "meta" and value.dim() else None
    if isinstance(value, tuple | list):
        parts = tuple([_key(part) for part in value])
        return None if None in parts else parts
    return (type(value), value) if isinstance(value, Hashable) else None


def _layout(tensor: torch.Tensor) -> Layout:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype


def _empty(layout: Layout) -> torch.Tensor:
    shape, strides, dtype = layout
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def _fills_own_storage(result: torch.Tensor, args: tuple[Any, ...]) -> bool:
    """Tell whether a result has a storage of its own of just its size, so that an empty tensor can replace it."""
    storage = result.untyped_storage()
    given = {leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
    own = result.device.type == "meta" and storage._cdata not in given
    return own and storage.nbytes() == _empty(_layout(result)).untyped_storage().nbytes()


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all live storages, except those to ignore."""

    def __init__(self, ignored: Iterable[torch.Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, Any] = {tensor.untyped_storage()._cdata: tensor for tensor in ignored}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and note the storages of its results."""
        result = run_on_meta(func, args, kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        # Views share the storage of their base, which is counted once.
        if key in self._alive:
            return

        def freed(_: Any) -> None:
            self.now -= size
            self._alive.pop(key, None)

        # The callback runs when the last tensor of the storage is freed, as the memory would be.
        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


class MixedPrecision(TorchFunctionMode):
    """Emulates autocast for the operations of a decoder on any device; optionally with quantised products.

    Products of matrices take 16-bit copies of their inputs, the copies of weights are made once per pass, and layer
    norms compute in float32 (torch's documentation of automatic mixed precision lists them).
    """

    def __init__(self, dtype: str, quantization: str = "none"):
        super().__init__()
        self._dtype, self._quantization = getattr(torch, dtype), quantization
        self._casts: dict[int, torch.Tensor] = {}

    def __enter__(self):
        """Set this as the precision of the attention substitutes as well."""
        _entered.append(self._dtype)
        return super().__enter__()

    def __exit__(self, *error):
        """Restore the previous precision."""
        _entered.pop()
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Cast the inputs of the operation and run it."""
        kwargs = kwargs or {}
        if func is functional.linear and self._is_quantized(args[1]):
            return QuantizedLinear.apply(self._low(args[0]), args[1], self._quantization == "8bit")
        if func in LOW_PRECISION:
            args = tuple(self._low(value) for value in args)
        elif func in FULL_PRECISION:
            args = tuple(value.float() if _is_floating(value) else value for value in args)
        return func(*args, **kwargs)

    def _is_quantized(self, weight: torch.Tensor) -> bool:
        return self._quantization != "none" and isinstance(weight, torch.nn.Parameter) and not weight.requires_grad

    def _low(self, value: Any) -> Any:
        if not _is_floating(value) or value.dtype == self._dtype:
            return value
        # Autocast caches casts of trained weights only; activations are cast each time.
        if not (value.is_leaf and value.requires_grad):
            return value.to(self._dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = value.to(self._dtype)
        return self._casts[id(value)]


def _is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


class QuantizedLinear(torch.autograd.Function):
    """A product with a frozen quantised matrix, which is dequantised to 16 bits temporarily for each product.

    bitsandbytes keeps the input of an 8-bit product until the backward pass (MatMul8bitLt), not that of a 4-bit one.
    """

    @staticmethod
    def forward(ctx, x, weight, keeps_input):
        """Return x times the transposed matrix."""
        ctx.save_for_backward(*((x,) if keeps_input else ()))
        ctx.weight = weight
        return functional.linear(x, torch.empty_like(weight, dtype=x.dtype))

    @staticmethod
    def backward(ctx, gradient):
        """Return the gradient of x; the frozen matrix has none."""
        return gradient @ torch.empty_like(ctx.weight, dtype=gradient.dtype), None, None


class FusedAttention(torch.autograd.Function):
    """Saves what a fused kernel saves: queries, keys, values, output, one float32 per query, and a mask if it has one.

    Backward, FlashAttention 2 sums the gradient of the queries in float32 and, when several query heads share a key,
    writes the gradients of keys and values once per query head before it adds them up.
    """

    @staticmethod
    def forward(ctx, query, key, value, mask):
        """Return an output of the shape [batch, length, heads, size]."""
        batch, heads, length, size = query.shape
        output = torch.empty(batch, length, heads, size, dtype=query.dtype, device=query.device)
        sums = torch.empty(batch, heads, length, dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, sums, mask)
        return output

    @staticmethod
    def backward(ctx, gradient):
        """Return gradients of the inputs' shapes."""
        query, key, value, *_ = ctx.saved_tensors
        accumulator = torch.empty_like(query, dtype=torch.float32)
        expanded = [torch.empty_like(query) for _ in range(2)] if key.shape[1] != query.shape[1] else []
        gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
        # Freed only here: all of these buffers exist at the same time, as in the kernel.
        del accumulator, expanded
        return gradients


def attend_fused(module, query, key, value, attention_mask, **kwargs):
    """Substitute for FlashAttention and varlen kernels."""
    return FusedAttention.apply(*_for_kernel(query, key, value), None), None


def attend_masked(module, query, key, value, attention_mask, **kwargs):
    """Substitute for torch's scaled dot product with a mask: expands shared heads, makes the mask floating-point."""
    groups, length = query.shape[1] // key.shape[1], query.shape[2]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    query, key, value = _for_kernel(query, key, value)
    mask = torch.empty(query.shape[0], 1, length, length, dtype=query.dtype, device=query.device)
    return FusedAttention.apply(query, key, value, mask), None


def _for_kernel(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return what the kernel gets: 16-bit copies under mixed precision."""
    return tuple(value.to(_entered[-1]) for value in values) if _entered else values


# The names must not contain "flash": transformers would look for the kernel.
SUBSTITUTES = {"fused": attend_fused, "sdpa": attend_masked}


def attention_name(attention: str) -> str:
    """Return the name under which transformers finds the substitute for ``attention``; eager needs none."""
    if attention not in SUBSTITUTES:
        return attention
    name = f"snaketune_planned_{attention}"
    AttentionInterface.register(name, SUBSTITUTES[attention])
    return name


@contextmanager
def without_packing_detection() -> Iterator[None]:
    """Keep transformers from detecting packed documents, which reads values that meta tensors lack."""
    original = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = original
