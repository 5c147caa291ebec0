"""What optimisations are worth, with real Snakemake: a killed ablation goes on and agrees with the arithmetic."""

import json
import subprocess
import time

import pytest
from project import CONFIG, REAL_PROGRAMS, Project, kill_session

pytestmark = [pytest.mark.slow, pytest.mark.story]
WANTED = ("ablate", "--config", "ablate=[packing,right_sizing,bf16]")


def short(number: int) -> str:
    """A line of a few tokens, so that most of a row is padding unless rows are packed."""
    return json.dumps({"prompt": f"What follows {number - 1}?", "completion": f"{number} " * (1 + number % 9)})


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("ablate"), CONFIG.replace("test_size: 0.01", "test_size: 0.1"))
    project.raw.write_text("".join(short(number) + "\n" for number in range(900)))
    return project


def test_a_killed_ablation_goes_on_where_it_was(project):
    process = subprocess.Popen(
        project.command(*WANTED, programs=REAL_PROGRAMS),
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while not (finished := list(project.folder.glob("work/ablate/*/baseline-0.json"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    kill_session(process)
    assert finished
    assert not list(project.folder.glob("results/runs/*/*/ablate.*"))
    assert project.run(*WANTED) - {"ablate"} == {"ablate_run", "render_ablation"}
    assert "Round 1, baseline: " in project.output
    assert ", kept from before" in project.output
    assert not list(project.folder.glob("work/ablate/*"))
    assert not list(project.folder.glob("results/runs/*/*/adapter"))


def test_packing_and_right_sizing_agree_with_the_arithmetic(project):
    (path,) = project.folder.glob("results/runs/one/*/ablate.json")
    facts = json.loads(path.read_text())
    rows = {(row["factor"], row["where"]): row for row in facts["effects"]}
    assert set(rows) == {(name, where) for name in ("packing", "right_sizing") for where in ("baseline", "fast")}
    for name in ("packing", "right_sizing"):
        row = rows[name, "baseline"]
        assert row["predicted_speed_up"] > 1.5
        # The bar is 15% on a quiet machine; others compute beside this test.
        assert row["speed_up"] == pytest.approx(row["predicted_speed_up"], rel=0.4)
    assert facts["combined"]["product_of_parts"] > 1
    assert [row["factor"] for row in facts["not_measured"]] == ["bf16"]


def test_the_page_is_there_and_the_same_command_does_nothing(project):
    (page,) = project.folder.glob("results/runs/one/*/ablate.html")
    assert "Measured together" in page.read_text()
    assert project.run(*WANTED) - {"ablate"} == set()


def test_an_unknown_factor_is_one_sentence(project):
    project.run("ablate", "--config", "ablate=magic", expect=1)
    assert "ConfigError: ablate: there is no factor 'magic': use some of staging," in project.output
    assert "Traceback" not in project.output
