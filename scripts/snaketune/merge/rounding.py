"""Rounding of merged weights to a 16-bit dtype: to nearest, or stochastically, which is unbiased.

A step of bfloat16 is larger than most of the changes that an adapter adds to weights, so rounding to nearest discards
them, always towards the base model. Stochastic rounding (Gupta et al. 2015, arXiv:1502.02551) rounds up with a
probability equal to the remainder in steps: the expected weight is the exact sum, and the errors of a layer's many
weights average out.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from snaketune.core.errors import TrainingError

AUTO, NEAREST, STOCHASTIC = "auto", "nearest", "stochastic"
VALUES_AT_ONCE = 1 << 20  # numbers rounded at a time; a multiple of the 16 that one Philox counter yields
CUT_BITS = 16  # low bits of float32 that bfloat16 lacks
HALF_DIGITS, HALF_LOWEST = 10, -14  # fraction bits of float16 and the exponent of its smallest normal number
HALF_LIMIT = 65504.0


@dataclass(frozen=True, slots=True)
class Rounding:
    """Rounding of trained weights: ``auto`` is stochastic if the target has fewer bits than the float32 sum."""

    kind: str = AUTO
    seed: int = 0

    def is_stochastic(self, dtype: torch.dtype) -> bool:
        """Tell whether weights in ``dtype`` are rounded stochastically."""
        return self.kind != NEAREST and dtype in (torch.bfloat16, torch.float16)

    def name(self, dtype: torch.dtype) -> str:
        """Return how weights in ``dtype`` are rounded: ``stochastic``, ``nearest``, or ``none`` in float32."""
        if self.is_stochastic(dtype):
            return STOCHASTIC
        return NEAREST if dtype in (torch.bfloat16, torch.float16) else "none"

    def apply(
        self, exact: torch.Tensor, dtype: torch.dtype, name: str, base: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the weight ``name`` in ``dtype``.

        The random bits come from Philox, keyed by seed and name and counted from the weight's first number: the result
        depends on nothing else, such as the order of weights. Numbers that ``dtype`` represents are unchanged.

        Args:
            exact: the sum, float32.
            dtype: dtype to round to.
            name: of the weight.
            base: the base model's weight; numbers that training did not change are rounded to nearest.

        Raises:
            TrainingError: if a finite number is beyond the range of ``dtype``.
        """
        if not self.is_stochastic(dtype):
            return nearest(exact, dtype, name)
        result = torch.empty(exact.shape, dtype=dtype)
        flat, target = exact.detach().float().contiguous().view(-1), result.view(-1)
        up_or_down = _to_bfloat16 if dtype == torch.bfloat16 else _to_float16
        for start, bits in zip(range(0, len(flat), VALUES_AT_ONCE), self._bits(name, len(flat)), strict=True):
            block = flat[start : start + VALUES_AT_ONCE]
            target[start : start + VALUES_AT_ONCE] = _in_range(up_or_down(block, bits), block, name)
        if base is not None and base.dtype != dtype:
            # Stochastic rounding would scatter weights that were never trained.
            alone = exact == base
            result[alone] = base[alone].to(dtype)
        return result

    def _bits(self, name: str, count: int) -> Iterator[torch.Tensor]:
        """Yield ``count`` random numbers of 16 bits as int32, in blocks."""
        # Philox is counter-based and specified (Salmon et al. 2011), so the bits are the same in every version and on
        # every machine; the name in the key keeps weights independent of each other and of their order.
        key = hashlib.blake2b(f"{self.seed}\0{name}".encode(), digest_size=16).digest()
        source = np.random.Philox(key=int.from_bytes(key, "little"))
        for start in range(0, count, VALUES_AT_ONCE):
            size = min(VALUES_AT_ONCE, count - start)
            # Four numbers of 16 bits from each word of 64, read in little-endian order on every machine.
            words = source.random_raw(-(-size // 4)).astype("<u8", copy=False)
            yield torch.from_numpy(words.view("<u2")[:size].astype(np.int32))


AUTOMATIC = Rounding()


def nearest(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """Return the tensor in ``dtype``, rounded to nearest.

    Raises:
        TrainingError: if a finite number is beyond the range of ``dtype``.
    """
    return tensor if tensor.dtype == dtype else _in_range(tensor.to(dtype), tensor, name)


def step_of(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the distance between neighbours in ``dtype`` around each of ``values``, float32."""
    kind = torch.finfo(dtype)
    size = values.float().abs().clamp_min(kind.smallest_normal)
    return torch.exp2(torch.floor(torch.log2(size))) * kind.eps


def _in_range(result: torch.Tensor, exact: torch.Tensor, name: str) -> torch.Tensor:
    if result.is_floating_point() and bool((torch.isinf(result) & torch.isfinite(exact)).any()):
        kind = str(result.dtype).removeprefix("torch.")
        cure = "bfloat16" if result.dtype == torch.float16 else "float32"
        raise TrainingError(f"{name} contains numbers outside the range of {kind}: set merge.dtype to {cure}.")
    return result


def _to_bfloat16(values: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Add random bits below bfloat16's last bit and truncate; exact for subnormal numbers, too."""
    # bfloat16 is the upper half of float32, so the bit patterns are added as integers: a carry out of the low half
    # moves to the next number away from zero, with a probability of the low half's value / 2^16.
    whole = values.view(torch.int32)
    carried = ((whole + bits) >> CUT_BITS << CUT_BITS).view(torch.float32)
    cut = (whole >> CUT_BITS << CUT_BITS).view(torch.float32)
    result = torch.where(torch.isinf(carried), cut, carried)  # the largest finite number is not rounded up to infinity
    return torch.where(torch.isfinite(values), result, values).to(torch.bfloat16)


def _to_float16(values: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Round up where the remainder, in steps, exceeds a random number; float64 holds every intermediate exactly."""
    size = values.abs().double()
    exponent = torch.frexp(size).exponent - 1
    step = torch.ldexp(torch.ones_like(size), exponent.clamp(HALF_LOWEST, 15) - HALF_DIGITS)
    low = torch.floor(size / step)
    # The half centres the random number between the 2^16 values that it can take: the probability is then exact to
    # 2^-17.
    above = (size / step - low) > (bits.double() + 0.5) / (1 << CUT_BITS)
    result = torch.copysign((low + above) * step, values.double())
    fits = size < HALF_LIMIT + 16  # numbers that rounding to nearest takes to infinity are refused here, too
    result = torch.where(fits, result.clamp(-HALF_LIMIT, HALF_LIMIT), values.double())
    return result.to(torch.float16)
