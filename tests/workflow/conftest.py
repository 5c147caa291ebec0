"""Files marked as a story: each test continues the ones before it, in whatever order or selection they are run.

A workflow takes seconds to minutes, so the tests of such a file share one project. A test first plays the steps above
it that have not been played; a step that was played already passes, or fails as it did.
"""

import inspect
import os

import pytest

STORY = "story"
WANTED = "SNAKETUNE_SLOW"


def pytest_configure(config):
    """Declare the marker."""
    config.addinivalue_line("markers", f"{STORY}: the tests of a file continue each other on one project")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Play a test of a story, and before it the steps that it continues."""
    steps = steps_of(pyfuncitem.module) if pyfuncitem.get_closest_marker(STORY) else []
    if pyfuncitem.function not in steps:
        return None
    played = vars(pyfuncitem.module).setdefault("_played", {})
    for step in steps[: steps.index(pyfuncitem.function) + 1]:
        if step not in played:
            played[step] = outcome_of(step, pyfuncitem._request)
        if played[step] is not None:
            raise played[step]
    return True


def steps_of(module):
    """Return the tests of a module that continue each other on its ``project``, in the order of the file."""
    tests = [value for name, value in vars(module).items() if name.startswith("test_") and inspect.isfunction(value)]
    continuing = (test for test in tests if "project" in inspect.signature(test).parameters)
    steps = [test for test in continuing if not is_marked(test, "parametrize") and not is_left_out(test)]
    return sorted(steps, key=lambda test: test.__code__.co_firstlineno)


def is_marked(test, name):
    return any(mark.name == name for mark in getattr(test, "pytestmark", []))


def is_left_out(test):
    """Return whether a step takes minutes and is not asked for; the steps below it do without it."""
    return is_marked(test, "slow") and WANTED not in os.environ


def outcome_of(step, request):
    """Call a step with its fixtures; return what it raised, None for nothing."""
    try:
        step(**{name: request.getfixturevalue(name) for name in inspect.signature(step).parameters})
    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as raised:
        return raised
    return None
