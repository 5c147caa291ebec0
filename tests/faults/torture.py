"""Random faults against a whole workflow: after each one the same command ends in the bytes of an undisturbed run.

    python tests/faults/torture.py --minutes 10 --seed 1

A failure prints the seed and the faults up to it, which the same seed repeats, and leaves the folder as it is.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

import preloaded
from project import Project, kill_all_in, record, stable_content

SECONDS = 900  # that one command may take at most
STATE = ("work/digests.json", "work/shards.json", "work/resolved/*.json", "work/outputs/**/*.json", "work/project-id")


class Campaign:
    """A project, what it came to undisturbed, and the faults that it has met since.

    Args:
        folder: where the project is made.
        seed: decides every fault.
    """

    def __init__(self, folder: Path, seed: int):
        self.chance, self.faults = random.Random(seed), []
        self.project = Project(folder)
        self.project.raw.write_text("".join(record(number) + "\n" for number in range(120)))
        self.command(0)
        self.undisturbed = stable_content(folder / "results")

    def command(self, *codes: int) -> str:
        """Give the command and return what it printed; it has to end with one of ``codes``, and with no traceback."""
        command = self.project.command()
        done = subprocess.run(
            command, cwd=self.project.folder, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        text = done.stdout + done.stderr
        assert done.returncode in codes, (done.returncode, text[-6000:])
        assert "Traceback (most recent call last)" not in text, text[-6000:]
        return text

    def step(self) -> None:
        """Do one fault, then give the same command and compare."""
        fault = self.chance.choice(FAULTS)
        self.faults.append(fault.__name__)
        fault(self)
        self.command(0)
        found = stable_content(self.project.folder / "results")
        different = [name for name in {*found, *self.undisturbed} if found.get(name) != self.undisturbed.get(name)]
        assert not different, different

    def any_file(self, *patterns: str) -> Path:
        """Return one of the files below the project that a pattern names."""
        found = sorted({path for pattern in patterns for path in self.project.folder.glob(pattern)})
        path = self.chance.choice([path for path in found if path.is_file() and not path.is_symlink()])
        self.faults[-1] += f" {path.relative_to(self.project.folder)}"
        return path

    def some_work(self) -> None:
        """Make something to do: a stage whose manifest is gone."""
        self.any_file("results/**/manifest.json", "results/**/*.manifest.json", "results/**/evaluation.json").unlink()


def kill(campaign: Campaign) -> None:
    """kill -9 of Snakemake and all its jobs at a random instant of some work."""
    campaign.some_work()
    process = campaign.project.start(programs=None)
    time.sleep(campaign.chance.uniform(0, 12))
    kill_all_in(campaign.project.folder)
    process.wait()


def flip(campaign: Campaign) -> None:
    """A bit of a result flips, and its times stay."""
    path = campaign.any_file("results/**/*")
    before, content = path.stat(), bytearray(path.read_bytes())
    if content:
        content[campaign.chance.randrange(len(content))] ^= 1 << campaign.chance.randrange(8)
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(campaign: Campaign) -> None:
    """A result is cut short."""
    path = campaign.any_file("results/**/*")
    path.write_bytes(path.read_bytes()[: campaign.chance.randrange(path.stat().st_size + 1)])


def edit(campaign: Campaign) -> None:
    """A fact gets another type."""
    path = campaign.any_file("results/**/*.json")
    document = json.loads(path.read_bytes())
    if isinstance(document, dict) and document:
        document[campaign.chance.choice(sorted(document))] = campaign.chance.choice([None, [], {}, "x", -1, True])
    path.write_text(json.dumps(document if campaign.chance.random() < 0.8 else []))


def delete(campaign: Campaign) -> None:
    """A result is deleted, or a whole folder of them."""
    path = campaign.any_file("results/data/*/*/*", "results/models/*/*", "results/runs/*/*/*")
    shutil.rmtree(path.parent.resolve()) if campaign.chance.random() < 0.3 else path.unlink()


def damage_state(campaign: Campaign) -> None:
    """A file of state is emptied, cut or turned into something else."""
    path = campaign.any_file(*STATE)
    content = path.read_bytes()
    path.write_bytes(campaign.chance.choice([b"", b"[]", b"{}", b"3", content[: len(content) // 2], b"\xff" + content]))


def forget(campaign: Campaign) -> None:
    """Snakemake's own records are deleted, or all of ours."""
    folder = campaign.chance.choice([".snakemake", "work", "logs"])
    campaign.faults[-1] += f" {folder}"
    shutil.rmtree(campaign.project.folder / folder, ignore_errors=True)  # there are no logs when nothing ran since


def touch(campaign: Campaign) -> None:
    """A file gets another time, older or newer."""
    path = campaign.any_file("results/**/*", "data/*")
    moment = time.time() - campaign.chance.choice([0, 10, 10**8])
    os.utime(path, (moment, moment))


def fill(campaign: Campaign) -> None:
    """The disk fills up at a random instant of some work; after it was freed the same command works."""
    if not os.path.ismount(campaign.project.folder):
        return
    campaign.some_work()
    ballast = campaign.project.folder / "ballast"
    left = campaign.chance.randrange(200_000)
    process = subprocess.Popen(
        campaign.project.command(),
        cwd=campaign.project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(campaign.chance.uniform(0, 8))
    try:
        size = 0
        with open(ballast, "wb") as file, suppress(OSError):  # the jobs take their share meanwhile
            while (room := shutil.disk_usage(campaign.project.folder).free - left) > 0:
                os.posix_fallocate(file.fileno(), size, min(room, 1 << 20))
                size += min(room, 1 << 20)
        campaign.faults[-1] += f" -> {process.wait(SECONDS)}"
    finally:
        ballast.unlink()


FAULTS: list[Callable[[Campaign], None]] = [kill, flip, cut, edit, delete, damage_state, forget, touch, fill]


def small_disk(folder: Path) -> bool:
    """Mount a disk of its own for the project, so that it can be filled; False where this user may not."""
    command = ["mount", "-t", "tmpfs", "-o", "size=300m", "none", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> int:
    """Run faults until the time is up; print each, and what the first failure was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    with preloaded.session():
        return run(arguments.minutes, arguments.seed)


def run(minutes: float, seed: int) -> int:
    """Run faults in a folder of their own; return the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    can_fill = small_disk(folder)
    kinds = "with full disks" if can_fill else "without full disks, because nothing can be mounted"
    print(f"seed {seed}, {folder}, {kinds}", flush=True)
    campaign = Campaign(folder / "project" if not can_fill else folder, seed)
    ends = time.monotonic() + minutes * 60
    while time.monotonic() < ends:
        try:
            campaign.step()
        except Exception as error:
            print(f"FAILED at seed {seed} after {campaign.faults}: {error}\nThe folder is {folder}.")
            return 1
        print(campaign.faults[-1], flush=True)
    print(f"{len(campaign.faults)} faults, each followed by the bytes of the undisturbed run")
    if can_fill:
        subprocess.run(["umount", str(folder)], check=True)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
