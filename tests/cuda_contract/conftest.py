"""The contract with CUDA, kept without CUDA: cards on paper, strict kernels, one tiny model and its rows."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "invariants"))

from paper_cards import CARDS, put_in
from strict_kernels import StrictFlash
from tiny_fixtures import base, rows  # noqa: F401 - fixtures of the tests here

from snaketune.train.kernels import attention


@pytest.fixture
def flash(monkeypatch):
    """The strict kernel in the place of torch's."""
    kernel, register = StrictFlash(), attention.register_varlen
    monkeypatch.setattr(attention, "register_varlen", lambda given=None: register(given or kernel))
    return kernel


@pytest.fixture
def card(request, monkeypatch, flash):
    """The card that a test names, in this machine; its strict kernel is ``card.flash``."""
    with put_in(CARDS[request.param], monkeypatch) as mode:
        mode.card, mode.flash = CARDS[request.param], flash
        yield mode
