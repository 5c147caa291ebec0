"""Random faults against a whole workflow: after each one the same command ends in the bytes of an undisturbed run.

    python tests/faults/torture.py --minutes 10 --seed 1

The seed decides the kind of project, too: one run, one prepared by several jobs, a grid with its comparison, preference
tuning. A failure prints the seed and the faults up to it, which the same seed repeats, and leaves the folder as it is.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

import preloaded
from project import CONFIG, Project, record, stable_content
from random_faults import FAULTS, SECONDS

BASE = CONFIG.replace("test_size: 0.01", "test_size: 0.05")
PREFERENCE = BASE.replace("train: {", "train: {method: dpo, ")
GRID = BASE.replace("runs: {one: {}}", "runs: {sweep: {grid: {adapter.r: [2, 4]}}}")
SHARDS = BASE.replace("sources:", "shards: 3\n  sources:")
KINDS = {"one run": BASE, "shards": SHARDS, "preference": PREFERENCE, "grid": GRID}
# Made by other targets, or of what was measured.
NOT_COMPARED = {"ablate.json", "ablate.html", "unfinished.html", "compare.html", "plan.html"}


def preference(number: int) -> str:
    """A pair of answers of which one is better."""
    worse = {"rejected": f"No number follows {number - 1}, or none that I know. " * 3}
    return json.dumps({"prompt": f"What follows {number - 1}?", "chosen": f"The number {number}. " * 5, **worse})


class Campaign:
    """A project, what it came to undisturbed, and the faults that it has met since.

    Args:
        project: the project; what it lacks is made first.
        seed: decides every fault.
    """

    def __init__(self, project: Project, seed: int):
        self.chance, self.faults = random.Random(seed), ["undisturbed"]
        self.project = project
        self.command(0)
        self.undisturbed = stable_content(project.folder / "results")
        self.folders = {_variant(name) for name in self.undisturbed}

    def command(self, *codes: int, arguments: tuple[str, ...] = ()) -> str:
        """Give the command and return what it printed; it has to end with one of ``codes``, and with no traceback."""
        command = self.project.command(*arguments)
        done = subprocess.run(
            command, cwd=self.project.folder, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        text = done.stdout + done.stderr
        assert done.returncode in codes, (done.returncode, text[-6000:])
        assert "Traceback (most recent call last)" not in text, text[-6000:]
        return text

    def step(self, fault: Callable[["Campaign"], None] | None = None) -> None:
        """Do one fault, by default one that chance chooses, then give the same command and compare."""
        fault = fault or self.chance.choice(FAULTS)
        self.faults.append(fault.__name__)
        fault(self)
        self.command(0)
        found = stable_content(self.project.folder / "results")
        names = {name for name in {*found, *self.undisturbed} if _variant(name) in self.folders}
        names = {name for name in names if Path(name).name not in NOT_COMPARED}
        different = sorted(name for name in names if found.get(name) != self.undisturbed.get(name))
        assert not different, different

    def note(self, text: str) -> None:
        """Add what chance decided to the name of the fault."""
        self.faults[-1] += f" {text}"

    def any_file(self, *patterns: str) -> Path:
        """Return one of the files below the project that a pattern names."""
        found = sorted({path for pattern in patterns for path in self.project.folder.glob(pattern)})
        path = self.chance.choice([path for path in found if path.is_file() and not path.is_symlink()])
        self.note(str(path.relative_to(self.project.folder)))
        return path

    def some_work(self) -> None:
        """Make something to do: a stage whose manifest is gone."""
        self.any_file("results/**/manifest.json", "results/**/*.manifest.json", "results/**/evaluation.json").unlink()


def make_project(folder: Path, kind: str) -> Project:
    """Make a project of a kind that has not run yet."""
    project, line = Project(folder, KINDS[kind]), preference if kind == "preference" else record
    project.raw.write_text("".join(line(number) + "\n" for number in range(120)))
    return project


def _variant(name: str) -> str:
    """Return the folder of a variant that a result is in."""
    return "/".join(Path(name).parts[:-1][:3])


def small_disk(folder: Path) -> bool:
    """Mount a disk of its own for the project, so that it can be filled; False where this user may not."""
    command = ["mount", "-t", "tmpfs", "-o", "size=300m", "none", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> int:
    """Run faults until the time is up; print each, and what the first failure was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kind", choices=KINDS, help="instead of the one that the seed decides")
    arguments = parser.parse_args()
    kind = arguments.kind or sorted(KINDS)[arguments.seed % len(KINDS)]
    with preloaded.session():
        return run(arguments.minutes, arguments.seed, kind)


def run(minutes: float, seed: int, kind: str) -> int:
    """Run faults in a folder of their own; return the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    can_fill = small_disk(folder)
    disks = "with full disks" if can_fill else "without full disks, because nothing can be mounted"
    print(f"seed {seed}, {kind}, {folder}, {disks}", flush=True)
    campaign = Campaign(make_project(folder if can_fill else folder / "project", kind), seed)
    ends = time.monotonic() + minutes * 60
    while time.monotonic() < ends:
        begun = time.monotonic()
        try:
            campaign.step()
        except Exception as error:
            print(f"FAILED at seed {seed} after {campaign.faults}: {error}\nThe folder is {folder}.")
            return 1
        print(f"{campaign.faults[-1]} ({time.monotonic() - begun:.0f} s)", flush=True)
    print(f"{len(campaign.faults) - 1} faults, each followed by the bytes of the undisturbed run")
    if can_fill:
        subprocess.run(["umount", str(folder)], check=True)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
