"""NVIDIA GPUs of this machine: one per job, and a sentence if there is one that torch cannot use.

Nothing here imports torch: CUDA reads ``CUDA_VISIBLE_DEVICES`` once, when it is initialised.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, MutableMapping
from pathlib import Path

from snaketune.core.errors import DataError, say
from snaketune.core.locks import Lock, try_lock
from snaketune.core.private_folders import PrivateFolder

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER_SECONDS = 60.0
# The oldest driver that supports each major version of CUDA (minor versions are compatible with each other).
OLDEST_DRIVER = {"11": "450.80", "12": "525.60", "13": "580.65"}
# What a process holds on a GPU besides tensors: CUDA's context, kernels and libraries (assumed).
GPU_CONTEXT_BYTES = 800_000_000
# Used if the machine's lock folder is not writable; jobs run in the folder of the workflow.
LOCKS = Path("work") / "cards"
MAKE_AGAIN = "recreate the environment with `rm -r .venv && make install`, which selects a build that fits"
OR_CPU = f"or ask for the CPU with {VISIBLE}= before the command"
# Locks of the GPUs that this process took, held until it exits.
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

    transformers uses DataParallel on all cards that it sees, and two concurrent jobs would share the first card. A card
    is free when no other job holds its lock; if too few are free, the first ones are shared, and a note says so. Cards
    that other programs compute on come after idle ones. Locks are held even when all cards are taken, so that other
    jobs know.

    Args:
        count: how many.
        folder: where the locks are, the same for all workflows of the machine.
        environment: gets ``CUDA_VISIBLE_DEVICES``.
    """
    cards = visible_cards(environment)
    if not cards:
        return
    folder = folder or locks_of_machine()
    known = uuids_of(cards, environment)
    at_work = cards_at_work() if len(cards) > count else set()
    order = sorted(cards, key=lambda card: known[card] in at_work)
    free = [card for card in order if _take(folder / f"{re.sub('[^A-Za-z0-9-]', '_', known[card])}.lock", count)]
    chosen = (free + [card for card in order if card not in free])[:count]
    if shared := [card for card in chosen if card not in free]:
        say(f"no other GPU is free, so this job shares {', '.join(shared)} with another one.")
    if len(cards) > count:
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

    CUDA reads that list up to the first invalid entry. Card numbers depend on ``CUDA_DEVICE_ORDER``; the driver's UUIDs
    do not. A card partitioned by MIG is listed as its slices.
    """
    if VISIBLE in environment:
        names = [name.strip() for name in environment[VISIBLE].split(",")]
        ends = [at for at, name in enumerate(names) if not name or name.startswith("-")]
        return names[: ends[0]] if ends else names
    return named_cards(_ask("-L") or "")


def uuids_of(cards: list[str], environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Return the UUID of each card that :func:`visible_cards` names, or the given name where the driver does not say.

    Jobs that name a card by its number, by the beginning of its UUID or not at all thus share one lock. A number means
    the driver's order if ``CUDA_DEVICE_ORDER`` says so, and in effect if all cards are alike; slices have no numbers.
    """
    if VISIBLE not in environment:
        return {card: card for card in cards}
    listing = _ask("-L") or ""
    uuids, models = named_cards(listing), set(re.findall(r"^GPU \d+: (.*) \(UUID", listing, re.MULTILINE))
    is_ordered = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len(models) == 1
    numbered = uuids if is_ordered and not any(uuid.startswith("MIG") for uuid in uuids) else []
    found = {}
    for card in cards:
        begins = [uuid for uuid in uuids if uuid.startswith(card)]
        if card.isdecimal():
            begins = numbered[int(card) : int(card) + 1]
        found[card] = begins[0] if len(begins) == 1 else card
    return found


def named_cards(listing: str) -> list[str]:
    """Return the UUIDs in the output of ``nvidia-smi -L``."""
    cards: list[list[str]] = []
    for line in listing.splitlines():
        found = re.search(r"\(UUID: ([^)]+)\)", line)
        if found and line.startswith("GPU "):
            cards.append([found[1]])
        elif found and cards:
            cards[-1].append(found[1])
    return [name for card in cards for name in (card[1:] or card)]


def cards_at_work() -> set[str]:
    """Return the UUIDs of the cards that programs compute on at this moment."""
    return set((_ask("--query-compute-apps=gpu_uuid", "--format=csv,noheader") or "").split())


def _ask(*arguments: str) -> str | None:
    """Return the output of ``nvidia-smi``, or None if it is missing, fails or hangs.

    A list of cards counts although it fails: it does when one of several cards is lost, and names the others.
    """
    if not shutil.which("nvidia-smi"):
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, errors="replace", timeout=DRIVER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 or arguments == ("-L",) else None


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
    """Return why torch, which finds no card, cannot use the one that is here; None if there is no GPU to use.

    Args:
        torch_version: of the installed torch.
        cuda: the version of CUDA that it was built with, or None.
        environment: an empty ``CUDA_VISIBLE_DEVICES`` selects the CPU.
        root: of the file system.
        ask: runs ``nvidia-smi``.
    """
    asked_for_cpu = VISIBLE in environment and not visible_cards(environment)
    if asked_for_cpu or not has_card(root, ask):
        return None
    if cuda is None:
        return (
            f"this machine has an NVIDIA GPU and torch {torch_version} is a build without CUDA: recreate the "
            f"environment with `rm -r .venv && SNAKETUNE_TORCH=gpu make install`, {OR_CPU}."
        )
    driver, oldest = _driver(root, ask), OLDEST_DRIVER.get(cuda.split(".")[0])
    if driver and oldest and _numbers(driver) < _numbers(oldest):
        return (
            f"the NVIDIA driver {driver} is too old for torch {torch_version} with CUDA {cuda}, which needs {oldest} or"
            f" newer: update the driver, {MAKE_AGAIN}, {OR_CPU}."
        )
    return (
        f"this machine has an NVIDIA GPU (driver {driver or 'unknown'}) and torch {torch_version} with CUDA {cuda}"
        f" cannot use it: run `nvidia-smi`, reboot after a driver update, start a container with --gpus all, {OR_CPU}."
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
