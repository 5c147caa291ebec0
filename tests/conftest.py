"""Tests that take minutes run on request."""

import os

import pytest

WANTED = "SNAKETUNE_SLOW"


def pytest_collection_modifyitems(items):
    """Leave out what is marked as slow unless it is asked for."""
    if WANTED in os.environ:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason=f"takes minutes: set {WANTED}=1 to run it"))
