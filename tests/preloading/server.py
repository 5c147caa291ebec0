"""A process that has imported what the workflow's programs import, and forks for each of them.

``import torch, transformers, peft`` takes more processor time than anything that a job of a tiny model does, and a
test of the workflow starts dozens of jobs. A fork has the packages and nothing of the workflow: its own code is read
from the copy under test, as ever. Run as ``python server.py SOCKET PARENT-PID``.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGES = (
    *("numpy", "orjson", "xxhash", "yaml", "jinja2", "pydantic", "pyarrow", "pyarrow.compute", "pyarrow.parquet"),
    *("tokenizers", "torch", "torch.utils.data", "torch.distributed", "safetensors.torch", "transformers"),
    *("transformers.trainer", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    *("transformers.models.llama.modeling_llama", "transformers.models.llama.tokenization_llama"),
    *("accelerate", "fastokens", "peft", "peft.utils.transformers_weight_conversion"),
    *("snakemake.cli", "snakemake.workflow", "snakemake.executors.local", "snakemake.report.html_reporter"),
    *("snakemake.assets", "snakemake.profiles", "snakemake.storage"),
    *("requests", "docutils.core", "docutils.parsers.rst.states", "smart_open", "yte", "dpath"),
)
# What these begin with is read when packages are imported: a program for which it differs is not forked.
READ_AT_IMPORT = ("BITSANDBYTES_", "CUDA_", "DATASETS_", "HF_", "HUGGINGFACE", "PYTHON")
# Set by the scripts themselves, or read only when it is used.
HARMLESS = (
    *("DATASETS_VERBOSITY", "HF_HUB_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_TOKEN"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "PYTHONPATH", "PYTHONUTF8", "PYTHONUNBUFFERED"),
)


@dataclass
class Job:
    """A program that was forked.

    Attributes:
        connection: to its client, which stays open as long as the client lives.
        pid: of the program.
        descriptor: of the program, which becomes readable when it ends.
        received: what has come of the request.
        files: standard input, output and error of the client.
    """

    connection: socket.socket
    pid: int = 0
    descriptor: int = -1
    received: bytes = b""
    files: list[int] = field(default_factory=list)


class Server:
    """Forks a process for each request."""

    def __init__(self, place: Path, parent: int):
        self._selector = selectors.DefaultSelector()
        self._jobs: list[Job] = []
        self._environment = read_at_import(os.environ)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        beginning = place.with_suffix(".new")
        self._socket.bind(str(beginning))
        self._socket.listen(64)
        beginning.rename(place)
        self._parent = os.pidfd_open(parent)
        self._selector.register(self._socket, selectors.EVENT_READ, self._accept)
        self._selector.register(self._parent, selectors.EVENT_READ, None)

    def serve(self) -> dict[str, Any] | None:
        """Return the request in a process that was forked for it; None here, once the parent has ended."""
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return self._end()
                if request := key.data():
                    return request

    def _accept(self) -> None:
        connection, _ = self._socket.accept()
        job = Job(connection)
        self._jobs.append(job)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._listen(job))

    def _listen(self, job: Job) -> dict[str, Any] | None:
        """Take a piece of the request, or a signal for the program."""
        try:
            if not job.files:
                content, job.files, _, _ = socket.recv_fds(job.connection, 1, 3)
                if content:
                    return None
            else:
                content = job.connection.recv(1 << 16)
        except ConnectionError:
            content = b""
        if not content:
            return self._give_up(job)
        if job.pid:
            for number in content:
                os.kill(job.pid, number)
            return None
        job.received += content
        return self._start(job) if b"\n" in content else None

    def _start(self, job: Job) -> dict[str, Any] | None:
        request = json.loads(job.received)
        if read_at_import(request["environment"]) != self._environment:
            job.connection.sendall(b"refused\n")
            return self._give_up(job)
        pid = os.fork()
        if not pid:
            self._leave(job)
            return request
        job.pid, job.descriptor = pid, os.pidfd_open(pid)
        self._close(job.files[:])
        self._selector.register(job.descriptor, selectors.EVENT_READ, lambda: self._report(job))
        return None

    def _leave(self, job: Job) -> None:
        """Keep, in the forked process, nothing but the client's files."""
        for number, descriptor in enumerate(job.files):
            os.dup2(descriptor, number)
        self._close(job.files)
        for other in self._jobs:
            other.connection.close()
            if other.descriptor >= 0:
                os.close(other.descriptor)
        self._selector.close()
        self._socket.close()
        os.close(self._parent)

    def _report(self, job: Job) -> None:
        _, status = os.waitpid(job.pid, 0)
        self._selector.unregister(job.descriptor)
        os.close(job.descriptor)
        job.pid, job.descriptor = 0, -1
        with contextlib.suppress(ConnectionError):  # the client was killed meanwhile
            job.connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        self._forget(job)

    def _give_up(self, job: Job) -> None:
        """End the program of a client that was killed."""
        if job.pid:
            os.kill(job.pid, signal.SIGKILL)
            self._selector.unregister(job.connection)
        else:
            self._close(job.files)
            self._forget(job)

    def _forget(self, job: Job) -> None:
        if job.connection.fileno() in self._selector.get_map():
            self._selector.unregister(job.connection)
        job.connection.close()
        self._jobs.remove(job)

    def _end(self) -> None:
        for job in self._jobs:
            if job.pid:
                os.kill(job.pid, signal.SIGKILL)

    @staticmethod
    def _close(descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)


def read_at_import(environment: Any) -> dict[str, str]:
    """Return the variables that packages have read by the time they are imported."""
    names = [name for name in environment if name.startswith(READ_AT_IMPORT) and name not in HARMLESS]
    return {name: environment[name] for name in sorted(names)}


def become(request: dict[str, Any]) -> None:
    """Make this process the one that was asked for, and run the program in it."""
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    is_unbuffered = "PYTHONUNBUFFERED" in os.environ or request["arguments"][:1] == ["-u"]
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
    sys.stdout.reconfigure(line_buffering=os.isatty(1), write_through=is_unbuffered)
    import numpy
    import torch

    tempfile.tempdir = None
    numpy.random.seed()
    # Snakemake says 0 for a rule that reserves no core.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 0) or len(os.sched_getaffinity(0)))
    sys.executable = str(Path(request["shims"]) / "python")
    program, arguments = request["program"], request["arguments"]
    if program == "snakemake":
        sys.argv = [str(Path(request["shims"]) / "snakemake"), *arguments]
        from snakemake.cli import main

        sys.path[0] = request["shims"]
        main()
        return
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [word for word in arguments if word != "-u"] if arguments[0] == "-u" else arguments
    if sys.argv[0] == "-m":
        sys.path[0], sys.argv = request["folder"], sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    script = Path(sys.argv[0])
    sys.path[0] = str(script.parent.resolve())
    module = types.ModuleType("__main__")
    module.__file__ = sys.argv[0]
    sys.modules["__main__"] = module
    exec(compile(script.read_bytes(), sys.argv[0], "exec"), module.__dict__)


def main() -> None:
    """Import, then serve until the parent ends."""
    import_packages()
    gc.collect()
    gc.freeze()
    gc.freeze = gc.unfreeze = lambda: None  # a training would give back what is frozen here at its end
    tasks = list(Path("/proc/self/task").iterdir())
    if len(tasks) > 1:
        raise RuntimeError(f"an import has started {len(tasks) - 1} threads, which a fork would lack")
    if request := Server(Path(sys.argv[1]), int(sys.argv[2])).serve():
        end(ended(lambda: become(request)))


def ended(program: Callable[[], None]) -> int:
    """Run a program and return its exit status, with what Python does about one that ends by an exception."""
    try:
        program()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def end(status: int) -> None:
    """End as Python does, but for taking apart every module, which costs more than most programs do."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def import_packages() -> None:
    """Import as the workflow's scripts do: the same variables are set, and nothing of its code remains."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    from snaketune.core.cli import hush_libraries
    from snaketune.core.environment import clean

    given = dict(os.environ)
    clean()
    hush_libraries()
    for name in PACKAGES:
        with contextlib.suppress(ImportError):  # what is optional, or elsewhere in another version
            importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "snaketune"]:
        del sys.modules[name]
    del sys.path[0]
    os.environ.clear()
    os.environ.update(given)


if __name__ == "__main__":
    main()
