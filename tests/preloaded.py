"""Programs of the workflow that start with their packages imported: see ``preloading/server.py``.

A test of what the workflow does asks for :func:`programs`. A test of how a process starts or is killed uses the real
ones.
"""

import fcntl
import gc
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).with_name("preloading")
PROGRAMS = ("python", "snakemake")
# Where the processes of one session of tests share one server, and the process that it ends with.
PLACE, OWNER = "SNAKETUNE_TEST_SERVER", "SNAKETUNE_TEST_OWNER"


# The real ones: a training would give back at its end what is frozen here.
freeze, unfreeze = gc.freeze, gc.unfreeze
gc.freeze = gc.unfreeze = lambda: None


@contextmanager
def session() -> Iterator[None]:
    """Give this process, and those that it starts, one place for the server, which ends with this process."""
    if OWNER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="preloaded-") as folder:
        os.environ |= {PLACE: folder, OWNER: str(os.getpid())}
        try:
            yield
        finally:
            del os.environ[PLACE], os.environ[OWNER]


def programs(**variables: str) -> Path:
    """Return the folder of ``python`` and ``snakemake`` that fork, once the server answers.

    With ``variables`` packages have read these, and no others, when they were imported; each set has its server.
    """
    mark = hashlib.sha256(repr(sorted(variables.items())).encode()).hexdigest()[:8] if variables else "plain"
    folder = Path(os.environ[PLACE]) / mark
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "server").exists():
            _start(folder, variables)
    return folder


def programs_but(folder: Path, *scripts: str) -> Path:
    """Return ``folder``, which gets programs that fork for everything but some scripts: these start as ever."""
    folder.mkdir()
    (folder / "server").symlink_to(programs() / "server")
    for name in PROGRAMS:
        _write_program(folder, name, scripts if name == "python" else ())
    return folder


def python(**variables: str) -> str:
    """Return a ``python`` for scripts that starts with the packages imported."""
    return str(programs(**variables) / "python")


def _start(folder: Path, variables: dict[str, str]) -> None:
    for name in PROGRAMS:
        _write_program(folder, name)
    command = [sys.executable, str(FOLDER / "server.py"), str(folder / "server"), os.environ[OWNER]]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    if variables:
        environment = {"PATH": os.environ["PATH"], **variables}
    # A process with threads cannot be forked safely.
    environment |= {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    with open(folder / "output", "w") as output:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    while not (folder / "server").exists():
        if server.poll() is not None:
            raise RuntimeError((folder / "output").read_text())
        time.sleep(0.05)


def _write_program(folder: Path, name: str, as_ever: Sequence[str] = ()) -> None:
    words = [sys.executable, "-IS", str(FOLDER / "client.py"), str(folder / "server"), name]
    lines = ["#!/bin/sh", *(f'[ "${{1##*/}}" = {script} ] && exec {sys.executable} "$@"' for script in as_ever)]
    (folder / name).write_text("\n".join([*lines, f'exec {shlex.join(words)} "$@"', ""]))
    (folder / name).chmod(0o755)
