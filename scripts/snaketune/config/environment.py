"""The environment that jobs inherit from the workflow."""

import os
import socket
import sys
from pathlib import Path

from snaketune.common.door import PARENT_VARIABLE


def prepare_job_environment() -> None:
    """Make jobs use the interpreter that runs Snakemake, few busy-waiting threads, and watch over this process.

    ``OMP_WAIT_POLICY=PASSIVE`` keeps idle OpenMP threads from burning the cores that other jobs need.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ[PARENT_VARIABLE] = f"{socket.gethostname()}:{os.getpid()}"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
