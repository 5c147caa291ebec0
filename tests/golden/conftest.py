"""Scripts that start with their packages imported."""

import sys

import preloaded
import pytest


@pytest.fixture
def forked(monkeypatch):
    """Let what starts Python start one that forks, whose hash seed is another in each session."""
    monkeypatch.setattr(sys, "executable", preloaded.python(PYTHONHASHSEED="random"))
