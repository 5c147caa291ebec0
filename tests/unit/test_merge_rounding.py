"""Rounding to 16 bits: on average nothing is lost, the draws depend on seed and name alone, odd numbers are safe."""

import numpy as np
import pytest
import torch

from snaketune.core.errors import TrainingError
from snaketune.merge import rounding
from snaketune.merge.rounding import NEAREST, STOCHASTIC, Rounding, step_of

SIXTEEN = [torch.bfloat16, torch.float16]
ODD = [0.1, -0.1, 1 + 2**-12, 1.9999, 6.1e-5, 3e-6, -3e-6, 2e-7, 511.77]


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_the_mean_of_many_draws_is_the_number(dtype):
    draws = 1 << 16
    exact = torch.tensor(ODD)
    found = Rounding().apply(exact.repeat(draws, 1), dtype, "w").double()
    error = (found.mean(0) - exact.double()) / step_of(exact, dtype)
    assert float(error.abs().max()) < 5 * 0.5 / draws**0.5
    assert float(((found - exact) / step_of(exact, dtype)).abs().max()) < 1
    assert all(len(found[:, column].unique()) == 2 for column in range(len(ODD)))


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_numbers_of_the_format_keep_their_bits(dtype):
    every = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.int16)).view(dtype)
    every = every[torch.isfinite(every)]
    found = Rounding().apply(every.float(), dtype, "w")
    assert torch.equal(found.view(torch.int16), every.view(torch.int16))


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_what_is_no_number_stays_and_the_largest_number_never_becomes_infinite(dtype):
    largest = torch.finfo(dtype).max
    beyond = torch.nextafter(torch.tensor(largest), torch.tensor(float("inf")))
    values = torch.stack([beyond, -beyond, torch.tensor(float("inf")), torch.tensor(float("nan"))]).repeat(500, 1)
    found = Rounding().apply(values, dtype, "w")
    assert found[:, :2].float().abs().unique().tolist() == [largest]
    assert bool(torch.isposinf(found[:, 2]).all() and torch.isnan(found[:, 3]).all())


@pytest.mark.parametrize("kind", [NEAREST, STOCHASTIC])
def test_a_number_beyond_the_range_is_refused(kind):
    with pytest.raises(TrainingError, match=r"w contains numbers outside the range of float16: set merge.dtype"):
        Rounding(kind).apply(torch.tensor([1.0, 7e4]), torch.float16, "w")


def test_draws_depend_on_seed_name_and_place_alone(monkeypatch):
    exact = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    whole = Rounding().apply(exact, torch.bfloat16, "w")
    monkeypatch.setattr(rounding, "VALUES_AT_ONCE", 48)
    assert torch.equal(Rounding().apply(exact, torch.bfloat16, "w"), whole)
    assert torch.equal(Rounding().apply(exact.view(20, 50).T.contiguous().T, torch.bfloat16, "w").view(-1), whole)
    assert not torch.equal(Rounding().apply(exact, torch.bfloat16, "v"), whole)
    assert not torch.equal(Rounding(seed=1).apply(exact, torch.bfloat16, "w"), whole)


def test_the_draws_are_these_on_every_machine():
    exact = torch.full((24,), 1 + 2**-8)
    bits = (Rounding().apply(exact, torch.bfloat16, "model.layers.0.mlp.up_proj.weight") > 1).int().tolist()
    assert "".join(map(str, bits)) == "000000101100011101101101"


def test_what_training_left_alone_is_rounded_to_nearest():
    base = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    exact = base.clone()
    exact[::2] += 1e-3
    found = Rounding().apply(exact, torch.bfloat16, "w", base)
    assert torch.equal(found[1::2], base[1::2].bfloat16())
    assert not torch.equal(found[::2], exact[::2].bfloat16())


def test_nothing_is_rounded_in_float32_and_auto_is_stochastic_in_sixteen_bits():
    exact = torch.randn(100)
    assert torch.equal(Rounding(STOCHASTIC).apply(exact, torch.float32, "w"), exact)
    names = {kind: [Rounding(kind).name(dtype) for dtype in (torch.float32, *SIXTEEN)] for kind in ("auto", NEAREST)}
    assert names == {"auto": ["none", STOCHASTIC, STOCHASTIC], NEAREST: ["none", NEAREST, NEAREST]}


def test_changes_smaller_than_a_step_are_kept_on_average_and_lost_to_nearest():
    base = (torch.randn(1 << 16, generator=torch.Generator().manual_seed(1)) * 0.1).bfloat16().float()
    change = torch.full_like(base, 2e-5)
    kept = {
        kind: float((Rounding(kind).apply(base + change, torch.bfloat16, "w").float() - base).mean() / 2e-5)
        for kind in (NEAREST, STOCHASTIC)
    }
    assert kept[NEAREST] < 0.5
    assert kept[STOCHASTIC] == pytest.approx(1, abs=0.1)
