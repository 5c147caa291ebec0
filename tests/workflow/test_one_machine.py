"""Several trainings and a preparation of data at a time on one machine with four GPUs, which are only names."""

import os

from project import CONFIG, Project, record

RUNS = "runs: {one: {}, two: {adapter: {r: 2}}, three: {adapter: {r: 3}}"
OTHER = ", other: {data: {system_prompt: Be brief.}}"
LISTING = "".join(f"echo 'GPU {number}: NVIDIA A100 (UUID: GPU-{number})'\n" for number in range(4))
WAITING = """
def wait_for(count):
    import time
    deadline = time.monotonic() + 200
    while len(list(Path().glob("started-*"))) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"waited for {count} trainings at a time")
        time.sleep(0.05)

"""
# A training that ends when all four are under way.
TRAIN = f"""
import os
from pathlib import Path
from snaketune.core.cli import parse_arguments, run
{WAITING}
def main():
    names = ("settings", "rightsize", "rows", "model", "work", "adapter", "metrics", "info", "manifest")
    arguments = parse_arguments("", *names, optional=("start", "plan"), several=("rewards",))
    from snaketune.core.gpus import take_cards
    from snaketune.core.manifest import write_manifest
    take_cards()
    Path("started-" + Path(arguments.adapter).parent.parent.name).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    wait_for(4)
    Path(arguments.adapter).mkdir()
    for name in (arguments.metrics, arguments.info):
        Path(name).write_text("")
    write_manifest(arguments.manifest, "train_model", [], {{}})

run(main)
"""
PLAN = """
import sys
from pathlib import Path
Path(sys.argv[sys.argv.index("--output") + 1]).write_text("{}")
"""


def test_four_trainings_have_four_gpus_and_the_data_of_one_are_prepared_beside_the_others(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text(f'#!/bin/sh\n[ "$1" = -L ] || exit 0\n{LISTING}')
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project", CONFIG.replace("runs: {one: {}}", f"{RUNS}}}"))
    project.raw.write_text("".join(record(number) + "\n" for number in range(60)))
    (project.folder / "scripts" / "train_model.py").write_text(TRAIN)
    (project.folder / "scripts" / "plan_run.py").write_text(PLAN)
    # The data of one run wait until the three others train.
    start = "def main() -> None:"
    waits = '    if "Be brief." in str(sys.argv):\n        wait_for(3)\n'
    for name in ("read_records",):
        project.edit(f"scripts/{name}.py", start, f"import sys\nfrom pathlib import Path\n{WAITING}\n{start}\n{waits}")
    # Which data are prepared first is the scheduler's choice, so those of the three are there.
    project.run("--cores", "5", "--until", "pack_rows")
    project.edit("config/config.yaml", f"{RUNS}}}", f"{RUNS}{OTHER}}}")
    project.run("--cores", "5", "--until", "train_model")
    seen = {path.name: path.read_text() for path in project.folder.glob("started-*")}
    assert sorted(seen.values()) == [f"GPU-{number}" for number in range(4)], seen
