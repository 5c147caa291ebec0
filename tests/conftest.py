"""Tests that take minutes run on request, and the long ones begin first, so that no process waits for the other."""

import os
import shutil
import tempfile

import preloaded
import pytest

WANTED = "SNAKETUNE_SLOW"


LONG = ("workflow", "invariants")


def pytest_configure(config):
    """Give the processes of this session one place for the server of preloaded programs."""
    if preloaded.OWNER not in os.environ:
        os.environ[preloaded.PLACE] = config.preloaded = tempfile.mkdtemp(prefix="preloaded-")
        os.environ[preloaded.OWNER] = str(os.getpid())


def pytest_unconfigure(config):
    """Remove that place again; the server ends with this process."""
    if place := getattr(config, "preloaded", None):
        shutil.rmtree(place)
        del os.environ[preloaded.PLACE], os.environ[preloaded.OWNER]


def pytest_collection_modifyitems(items):
    """Put folders of long tests first, and leave out what is marked as slow unless it is asked for."""
    items.sort(key=lambda item: not {*LONG} & {*item.path.parts})
    if WANTED in os.environ:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason=f"takes minutes: set {WANTED}=1 to run it"))
