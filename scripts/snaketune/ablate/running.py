"""Runs cases one after the other in separate processes; results are kept, so that a killed ablation resumes.

The processes are forked from one that has only imported the packages: each starts with clean memory and without the
seconds that imports take.
"""

import multiprocessing
import os
import shutil
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.ablate.ablation import Ablation
from snaketune.ablate.ablation_request import AblationFiles, AblationSlice, read_files, subject_of
from snaketune.core.atomic import write_json
from snaketune.core.canonical import digest_of, read_json
from snaketune.core.cli import stop_with_parent
from snaketune.core.errors import SnaketuneError
from snaketune.core.gpus import take_cards
from snaketune.core.locks import wait_for_lock
from snaketune.facts.ablation_facts import ABLATION
from snaketune.plan.devices.machine import Machine, look_at_machine
from snaketune.settings.operational import Operational
from snaketune.storage.disks import Disks
from snaketune.train.packages import versions_of

IMPORTED_ONCE = ["snaketune.train.probe.probing", "snaketune.data.tokens.chunk_tokenizing", "snaketune.storage.disks"]


class FreshProcesses:
    """Runs functions in separate processes and keeps their results in a folder.

    Args:
        folder: for the results, one file each.
    """

    def __init__(self, folder: Path):
        self._folder, self._context = folder, multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(IMPORTED_ONCE)

    def result(self, name: str, work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Return what ``work(*arguments)`` returned, now or before an interruption, as ``{"value": ...}``.

        A case that cannot run here gives ``{"failed": sentence}`` instead. ``kept`` means that it was measured earlier.
        """
        path = self._folder / f"{name}.json"
        is_kept = path.is_file()
        if not is_kept:
            parent = f"{socket.gethostname()}:{os.getpid()}"
            process = self._context.Process(target=_work, args=(path, parent, work, arguments))
            process.start()
            process.join()
            if not path.is_file():
                write_json(path, {"failed": _death(process.exitcode)})
        return {**read_json(path), "kept": is_kept}


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was killed by {signal.Signals(-code).name}, probably for lack of memory"
    return f"its process exited with status {code}; see the log"


def _work(path: Path, parent: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles the signal and ends this one
    stop_with_parent(parent)
    try:
        write_json(path, {"value": work(*arguments)})
    except SnaketuneError as error:
        write_json(path, {"failed": str(error)})


def folder_of(root: Path, run: str, spec: str, files: AblationFiles, machine: Machine) -> Path:
    """Return the folder for finished cases, which depends on run, code, data, packages and machine."""
    parts = {
        "spec": spec,
        "data": files.rightsize["fingerprint"],
        "rows": files.pack["files"],
        "machine": device_and_versions(machine),
        "host": machine.host,
    }
    return root / f"{run}-{digest_of(parts, size=8)}"


def device_and_versions(machine: Machine) -> dict[str, Any]:
    """Return the device and the versions that the figures hold for."""
    return {"device": machine.gpu or "CPU", "ram_gb": round(machine.ram_gb, 1), "versions": versions_of()}


@dataclass(frozen=True, slots=True)
class AblationJob:
    """The stage's inputs, named like the flags of ``ablate_run.py``, which documents them."""

    spec: str
    code: str
    cfg: AblationSlice
    settings: Operational
    rightsize: Path
    tokens: Path
    records: Path
    pack: Path
    model: Path
    stage: Path
    work: Path
    name: str
    output: Path


def ablate_run(job: AblationJob) -> None:
    """Measure every case that was not measured before an interruption, and write ablate.json."""
    take_cards()
    # Cases share the cache of compiled kernels, as trainings do.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(job.work.absolute() / "compiled"))
    files = read_files(job, Disks.of(os.environ, job.work), job.settings.pop("scratch"), job.work)
    machine = look_at_machine(job.output.parent)
    subject, here = subject_of(job.cfg, job.settings, files, machine)
    folder = folder_of(job.work / "ablate", job.name, job.spec, files, machine)
    # One at a time: two measurements on one device would measure each other.
    lock = wait_for_lock(job.work / "probes" / "lock")
    result, wanted = FreshProcesses(folder).result, job.cfg["factors"]
    facts = Ablation(subject, here, wanted, folder, result, lambda line: print(line, flush=True)).run()
    ABLATION.write(job.output, {"run": job.name, "machine": device_and_versions(machine), **facts})
    shutil.rmtree(folder)
    lock.close()
