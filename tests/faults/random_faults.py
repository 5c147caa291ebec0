"""The faults of ``torture.py``: each does one thing to the project of a campaign, by chance."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from project import Project, kill_all_in

SECONDS = 900  # that one command may take at most
STATE = ("work/digests.json", "work/shards.json", "work/code.json", "work/resolved/*.json", "work/outputs/**/*.json")
# Values of the configuration and of the data, each with another one. Another name of a stage's variant or another
# training may come of it, under which nothing of the undisturbed run may change.
OTHER_CONFIG = (
    ("learning_rate: 1e-3", "learning_rate: 2e-3"),
    ("max_length: 256", "max_length: 128"),
    ("test_size: 0.05", "test_size: 0.2"),
    ("max_new_tokens: 4", "max_new_tokens: 3"),
    ("save_steps: 2", "save_steps: 3"),
    ("hidden_size: 32", "hidden_size: 16"),
    ("runs:", "merge: {enabled: false}\nruns:"),
    ("runs:", "dedupe: {near: true}\nruns:"),
    ("runs:", "plan: {price_per_gpu_hour: 7}\nruns:"),
)
# Modules of every stage: one that is needed by all, and one or two of each.
MODULES = (
    "core/atomic.py",
    "data/records/record_reader.py",
    "data/similarity/dedupe.py",
    "data/split/splitting.py",
    "data/tokens/tokenizing.py",
    "data/rows/packing.py",
    "model/prepare.py",
    "plan/planning.py",
    "train/trainer.py",
    "evaluate/evaluation.py",
    "merge/merging.py",
    "card/card.py",
    "report/run/page.py",
)
# What else somebody may ask for. Their own outputs are no part of the comparison.
TARGETS = (
    ("plan",),
    ("data",),
    ("inspect",),
    ("report",),
    ("prune",),
    ("compare",),
    ("ablate", "--config", "ablate=[right_sizing]"),
    ("train", "--config", "verify=yes"),
    ("train", "--config", "data={shards: 2}"),
    ("train", "-n"),
)


class Campaign(Protocol):
    """What a fault uses of a campaign: see ``torture.py``."""

    project: Project

    @property
    def chance(self): ...

    def note(self, text: str) -> None: ...

    def any_file(self, *patterns: str) -> Path: ...

    def some_work(self) -> None: ...

    def command(self, *codes: int, arguments: tuple[str, ...] = ()) -> str: ...


def kill(campaign: Campaign) -> None:
    """kill -9 of Snakemake and all its jobs at a random instant of some work."""
    campaign.some_work()
    _killed(campaign, 12)


def _killed(campaign: Campaign, seconds: float, *arguments: str) -> None:
    """Give a command and kill all of it at a random instant."""
    process = subprocess.Popen(
        campaign.project.command(*arguments),
        cwd=campaign.project.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with suppress(subprocess.TimeoutExpired):
        process.wait(campaign.chance.uniform(0, seconds))
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
    """A result is truncated."""
    path = campaign.any_file("results/**/*")
    path.write_bytes(path.read_bytes()[: campaign.chance.randrange(path.stat().st_size + 1)])


def edit(campaign: Campaign) -> None:
    """A fact gets another type."""
    _edit(campaign, campaign.any_file("results/**/*.json"))


def _edit(campaign: Campaign, path: Path) -> None:
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
    campaign.note(folder)
    shutil.rmtree(campaign.project.folder / folder, ignore_errors=True)  # there are no logs when nothing ran since


def forget_and_edit(campaign: Campaign) -> None:
    """All records of ours are deleted and a fact gets another type: what is noted beside it tells."""
    path = campaign.any_file("results/**/*.json")
    shutil.rmtree(campaign.project.folder / "work", ignore_errors=True)
    notes = path.with_name(".made.json")
    if not notes.exists() or f'{path.name}"' in notes.read_text():  # a fault before this one may have met the notes
        _edit(campaign, path)


def touch(campaign: Campaign) -> None:
    """A file gets another time, older or newer."""
    path = campaign.any_file("results/**/*", "data/*")
    moment = time.time() - campaign.chance.choice([0, 10, 10**8])
    os.utime(path, (moment, moment))


def future(campaign: Campaign) -> None:
    """The clock goes back by a day: a sentence, until it is right again."""
    path = campaign.any_file("results/*/*/*.json", "results/*/*/*/*.json")
    before = path.stat()
    os.utime(path, (time.time() + 86400,) * 2)
    campaign.command(0, 1, 2)
    if path.exists():
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_config(campaign: Campaign) -> None:
    """Another configuration is begun, killed or finished, and taken back."""
    path = campaign.project.config
    old, new = campaign.chance.choice([pair for pair in OTHER_CONFIG if pair[0] in path.read_text()])
    campaign.note(new.splitlines()[0])
    with _edited(path, lambda text: text.replace(old, new, 1)):
        _killed(campaign, campaign.chance.choice([8, 600]))


def change_code(campaign: Campaign) -> None:
    """Another version of the code is begun with, killed or finished, and taken back."""
    module = campaign.chance.choice(MODULES)
    campaign.note(module)
    with _edited(campaign.project.folder / "scripts/snaketune" / module, lambda text: f"{text}\n_OTHER_VERSION = 1\n"):
        _killed(campaign, campaign.chance.choice([8, 600]))


def change_source(campaign: Campaign) -> None:
    """The source grows, and is what it was again after a while."""
    path = campaign.any_file("data/*")
    with _edited(path, lambda text: text + text.splitlines()[0].replace("What", "Well, what") + "\n"):
        _killed(campaign, campaign.chance.choice([8, 600]))


def other_target(campaign: Campaign) -> None:
    """Something else is asked for, and killed or finished."""
    arguments = campaign.chance.choice(TARGETS)
    campaign.note(" ".join(arguments))
    _killed(campaign, campaign.chance.choice([8, 600]), *arguments)


@contextmanager
def _edited(path: Path, change: Callable[[str], str]) -> Iterator[None]:
    before = path.read_text()
    changed = change(before)
    assert changed != before, path
    path.write_text(changed)
    try:
        yield
    finally:
        path.write_text(before)


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
        campaign.note(f"-> {process.wait(SECONDS)}")
    finally:
        ballast.unlink()


FAULTS: tuple[Callable[[Campaign], None], ...] = (
    kill,
    flip,
    cut,
    edit,
    delete,
    damage_state,
    forget,
    forget_and_edit,
    touch,
    future,
    change_config,
    change_code,
    change_source,
    other_target,
    fill,
)
# Those that cost a second or some, one of which each run of the tests does: the others begin another variant or a disk.
QUICK = (flip, edit, damage_state, cut, touch, forget_and_edit, future, delete, forget, kill)
