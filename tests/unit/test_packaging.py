"""`pip install .`: the library with its templates."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_the_library_its_templates_and_the_requirements(tmp_path):
    project = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "scripts/snaketune", project / "scripts/snaketune", ignore=ignored)
    for name in ("pyproject.toml", "LICENSE", "envs/requirements.txt"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    make = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    made = subprocess.run([sys.executable, "-c", make], cwd=project, capture_output=True, text=True, check=True)
    with ZipFile(tmp_path / made.stdout.split()[-1]) as wheel:
        held = set(wheel.namelist())
        metadata = next(wheel.read(name).decode() for name in held if name.endswith("METADATA"))
    sources = {path.relative_to(ROOT / "scripts").as_posix() for path in (ROOT / "scripts/snaketune").rglob("*.*")}
    assert {name for name in sources if not name.endswith(".pyc")} <= held
    assert "Version: 0.1.0" in metadata
    assert "Requires-Dist: snakemake" in metadata
