"""The contracts of pyproject.toml about who imports whom: `make lint` fails where one is broken."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
LIGHT = ("watch_runs", "report", "render_report", "render_plan", "compare_runs", "write_model_card", "prune", "publish")
IMPORTED = re.compile(r"from (snaketune[\w.]+) import")
BREAKS = {
    "core/digests.py": "from snaketune.data import rows",
    "train/kernels/chunked_cross_entropy.py": "from snaketune.config import resolve",
    "merge/merging.py": "from snaketune.report import page",
    "data/rows/packing.py": "import torch",
    "facts/plan_facts.py": "from snaketune.plan import gate",
}


def lint(folder):
    command = [Path(sys.executable).parent / "lint-imports", "pyproject.toml", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": "scripts"})


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "scripts/snaketune", folder / "scripts/snaketune", ignore=shutil.ignore_patterns("*.pyc"))
    return folder


def test_every_contract_holds_and_is_noticed_when_it_is_broken(copy):
    assert "5 kept, 0 broken" in lint(copy).stdout
    for name, line in BREAKS.items():
        path = copy / "scripts/snaketune" / name
        path.write_text(f"{line}\n{path.read_text()}")
    broken = lint(copy)
    assert broken.returncode == 1
    assert "0 kept, 5 broken" in broken.stdout


def test_reports_and_the_watcher_start_without_torch():
    modules = {found for name in LIGHT for found in IMPORTED.findall((SCRIPTS / f"{name}.py").read_text())}
    code = (
        f"import sys; [__import__(name) for name in {sorted(modules)}]; print(*{{'torch', 'peft'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")
