"""Tests that continue each other (tests/workflow/conftest.py) pass in any order, and alone."""

import shutil
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
CONFTEST = Path(__file__).parents[1] / "workflow" / "conftest.py"
STORY = """
    import pytest
    pytestmark = pytest.mark.story

    @pytest.fixture(scope="module")
    def project():
        return []

    def test_first(project):
        assert project == []
        project.append(1)

    def test_second(project, tmp_path):
        assert project == [1]
        project.append(tmp_path.is_dir())

    def test_third(project):
        assert project == [1, True]

    @pytest.mark.parametrize("number", [1, 2])
    def test_aside(project, number):
        assert number
"""


@pytest.mark.parametrize(
    ("wanted", "passed"),
    [
        (["first", "second", "third", "aside"], 5),
        (["third", "second", "first"], 3),
        (["third"], 1),
        (["second", "third"], 2),
    ],
)
def test_a_step_plays_those_before_it_once(pytester, wanted, passed):
    shutil.copy(CONFTEST, pytester.path)
    path = pytester.makepyfile(test_story=STORY)
    found = pytester.runpytest_inprocess("-p", "no:cacheprovider", *(f"{path}::test_{name}" for name in wanted))
    found.assert_outcomes(passed=passed)


def test_a_step_that_fails_fails_those_after_it(pytester):
    shutil.copy(CONFTEST, pytester.path)
    path = pytester.makepyfile(test_story=STORY.replace("assert project == [1]", "assert project == [2]"))
    found = pytester.runpytest_inprocess("-p", "no:cacheprovider", f"{path}::test_third", f"{path}::test_first")
    found.assert_outcomes(passed=1, failed=1)
