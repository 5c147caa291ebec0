"""NVIDIA cards of this machine: one for each job, and a sentence where there is one that torch cannot use.

Nothing here imports torch: which cards a process sees has to be said before CUDA looks for them, and it looks once.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, MutableMapping
from pathlib import Path

from snaketune.core.errors import DataError
from snaketune.core.locks import Lock, try_lock
from snaketune.core.private_folders import PrivateFolder

VISIBLE = "CUDA_VISIBLE_DEVICES"
ANSWER_SECONDS = 60.0
# The oldest driver that runs programs made with a version of CUDA (minor versions are compatible with each other).
OLDEST_DRIVER = {"11": "450.80", "12": "525.60", "13": "580.65"}
# Where nothing can be written to the machine's own place; jobs run in the folder of the workflow.
LOCKS = Path("work") / "cards"
MAKE_AGAIN = "make the environment again with `rm -r .venv && make install`, which looks for a build that fits"
OR_CPU = f"or ask for the CPU with {VISIBLE}= before the command"
# Locks of the cards that this process took, held until it ends.
_held: list[Lock] = []


def locks_of_machine(shared: Path = Path("/tmp")) -> Path:
    """Return the folder of the locks of cards, one for all workflows of this user on this machine."""
    folder = shared / f"snaketune-{os.geteuid()}" / "cards"
    try:
        for place in (folder.parent, folder):
            with PrivateFolder(place):
                pass
    except (OSError, DataError):
        return LOCKS
    return folder


def count_cards() -> int:
    """Return how many cards, or slices of cards, this process may use."""
    return len(visible_cards())


def take_cards(count: int = 1, folder: Path | None = None, environment: MutableMapping[str, str] = os.environ) -> None:
    """Let this process, and those that it starts, see ``count`` of the cards that it may use, free ones first.

    transformers trains on all cards that it sees, in a way that nobody asked for, and two jobs at a time would share
    the first card. A card is free when no other job holds its lock; where too few are, the first ones are taken, too.
    Cards on which other programs compute come after idle ones. Locks are held also where all cards are taken, so that
    other jobs know.

    Args:
        count: how many.
        folder: where the locks are, the same for all workflows of the machine.
        environment: gets ``CUDA_VISIBLE_DEVICES``.
    """
    cards = visible_cards(environment)
    if not cards:
        return
    folder = folder or locks_of_machine()
    at_work = cards_at_work() if len(cards) > count else set()
    order = sorted(cards, key=lambda card: card in at_work)
    free = [card for card in order if _take(folder / f"{re.sub('[^A-Za-z0-9-]', '_', card)}.lock", count)]
    if len(cards) > count:
        chosen = (free + [card for card in order if card not in free])[:count]
        environment[VISIBLE] = ",".join(card for card in cards if card in chosen)


def _take(path: Path, most: int) -> bool:
    if len(_held) >= most:
        return False
    lock, _ = try_lock(path)
    if lock:
        _held.append(lock)
    return lock is not None


def visible_cards(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Return the names of the cards that this process may use, as ``CUDA_VISIBLE_DEVICES`` takes them.

    CUDA reads that list up to the first name that is none. Numbers of cards depend on ``CUDA_DEVICE_ORDER``; the names
    that the driver gives do not. Of a card that is cut into slices (MIG) the slices are named.
    """
    if VISIBLE in environment:
        names = [name.strip() for name in environment[VISIBLE].split(",")]
        ends = [at for at, name in enumerate(names) if not name or name.startswith("-")]
        return names[: ends[0]] if ends else names
    return named_cards(_ask("-L") or "")


def named_cards(listing: str) -> list[str]:
    """Return the names in what ``nvidia-smi -L`` prints."""
    cards: list[list[str]] = []
    for line in listing.splitlines():
        found = re.search(r"\(UUID: ([^)]+)\)", line)
        if found and line.startswith("GPU "):
            cards.append([found[1]])
        elif found and cards:
            cards[-1].append(found[1])
    return [name for card in cards for name in (card[1:] or card)]


def cards_at_work() -> set[str]:
    """Return the names of the cards on which programs compute at this moment."""
    return set((_ask("--query-compute-apps=gpu_uuid", "--format=csv,noheader") or "").split())


def _ask(*arguments: str) -> str | None:
    """Return what ``nvidia-smi`` answers, None where it is missing, fails or hangs."""
    if not shutil.which("nvidia-smi"):
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def has_card(root: Path = Path("/"), ask: Callable[..., str | None] = _ask) -> bool:
    """Tell whether this process has an NVIDIA card: its device file, or under Windows (WSL) an answer of the driver.

    A container without ``--gpus`` sees the driver in ``/proc`` and has no card.
    """
    if any((root / "dev").glob("nvidia[0-9]*")):
        return True
    return (root / "dev" / "dxg").exists() and bool(named_cards(ask("-L") or ""))


def why_unusable(
    torch_version: str,
    cuda: str | None,
    environment: MutableMapping[str, str] = os.environ,
    root: Path = Path("/"),
    ask: Callable[..., str | None] = _ask,
) -> str | None:
    """Return why torch, which finds no card, cannot use the one that is here; None where there is none to use.

    Args:
        torch_version: of the installed torch.
        cuda: the version of CUDA that it was made with, None for none.
        environment: an empty ``CUDA_VISIBLE_DEVICES`` asks for the CPU.
        root: of the file system.
        ask: asks ``nvidia-smi``.
    """
    asked_for_cpu = VISIBLE in environment and not visible_cards(environment)
    if asked_for_cpu or not has_card(root, ask):
        return None
    if cuda is None:
        return (
            f"this machine has an NVIDIA GPU and torch {torch_version} is a build without CUDA: make the environment"
            f" again with `rm -r .venv && SNAKETUNE_TORCH=gpu make install`, {OR_CPU}."
        )
    driver, oldest = _driver(root, ask), OLDEST_DRIVER.get(cuda.split(".")[0])
    if driver and oldest and _numbers(driver) < _numbers(oldest):
        return (
            f"the NVIDIA driver {driver} is too old for torch {torch_version} with CUDA {cuda}, which needs {oldest} or"
            f" newer: update the driver, {MAKE_AGAIN}, {OR_CPU}."
        )
    return (
        f"this machine has an NVIDIA GPU (driver {driver or 'unknown'}) and torch {torch_version} with CUDA {cuda}"
        f" cannot use it: run `nvidia-smi`, start the machine again after an update of the driver, give a container the"
        f" option --gpus all, {OR_CPU}."
    )


def _driver(root: Path, ask: Callable[..., str | None]) -> str | None:
    answer = (ask("--query-gpu=driver_version", "--format=csv,noheader") or "").strip().splitlines()
    if answer:
        return answer[0].strip()
    path = root / "proc" / "driver" / "nvidia" / "version"
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", path.read_text(errors="replace")) if path.is_file() else None
    return found[1] if found else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
