"""Tests that take minutes run on request, and the long ones begin first, so that no process waits for the other."""

import contextlib
import gc
import os
import sys
import tempfile

# Read by OpenMP when torch is loaded, also in the processes of xdist, which share the cores: threads of its own in each
# would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Each job of a workflow would compile the modules that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
import cpu_only
import preloaded
import pytest

sys.dont_write_bytecode = False
# Before torch is imported, also in the programs that tests start.
cpu_only.hide_gpus(os.environ)

# Until the tests are collected: what they import stays, and walking it again and again takes seconds.
gc.disable()

WANTED = "SNAKETUNE_SLOW"
LONG = ("real", "workflow", "invariants")


def pytest_configure(config):
    """Give the processes of this session a place for the server of preloaded programs, and one for temporary files."""
    stack = contextlib.ExitStack()
    stack.enter_context(preloaded.session())
    if not hasattr(config, "workerinput"):
        stack.enter_context(temporary_files())
    config.add_cleanup(stack.close)


@contextlib.contextmanager
def temporary_files():
    """Remove, at the end of the session, what killed programs left; pytest's own folders stay.

    TMPDIR would also name a disk for data.
    """
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True) as folder:
        os.environ["TEMP"], tempfile.tempdir = folder, None
        yield
        os.environ.pop("TEMP", None)
        tempfile.tempdir = None


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect garbage again once the tests are collected."""
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def imports_are_frozen():
    """Keep the garbage collector from walking all that is imported, which would be half the time of a tiny training."""
    gc.collect()
    preloaded.freeze()


def pytest_collection_modifyitems(items):
    """Put folders of long tests first, and leave out what is marked as slow unless it is asked for."""
    items.sort(key=lambda item: not {*LONG} & {*item.path.parts})
    if WANTED in os.environ:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason=f"takes minutes: set {WANTED}=1 to run it"))
