"""A job that Slurm warns of its time limit saves, goes back to the queue and resumes from its checkpoint."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from snaketune.core.errors import TrainingError
from snaketune.train.checkpoints.checkpoints import steps_of


class OutOfTime(TrainingError):
    """Training ended because SIGUSR1 came, with which Slurm warns of the time limit; what was done is saved."""


@contextlib.contextmanager
def requeued_when_out_of_time(work: Path, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Send the Slurm job that runs this back to the queue when it is out of time and has done something.

    A job that saves no step within its limit would never end, and fails.

    Args:
        work: folder with the checkpoints of the training.
        environment: of this process.

    Raises:
        TrainingError: that training is not finished, and who goes on.
    """
    before = steps_of(work)[:1]
    try:
        yield
    except OutOfTime as error:
        job = environment.get("SLURM_JOB_ID")
        if not job or steps_of(work)[:1] == before:
            raise
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, errors="replace")
        if asked.returncode:
            raise TrainingError(f"{error} Slurm did not requeue job {job} ({asked.stderr.strip()}).") from None
        raise TrainingError(f"{error} Slurm has requeued job {job}, which resumes by itself.") from None
