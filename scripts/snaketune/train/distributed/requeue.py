"""Requeueing: a job that Slurm warns of its time limit saves, is requeued and resumes from its checkpoint."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from snaketune.core.errors import TrainingError
from snaketune.train.checkpoints.checkpoints import checkpoint_steps


class OutOfTime(TrainingError):
    """Training ended because of SIGUSR1, by which Slurm warns of the time limit; a checkpoint is saved."""


@contextlib.contextmanager
def requeued_when_out_of_time(work: Path, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Requeue the Slurm job of this process when it runs out of time, provided it has saved a new step.

    A job that saves no step within its limit fails instead: requeued, it would never finish.

    Args:
        work: folder with the checkpoints of the training.
        environment: of this process.

    Raises:
        TrainingError: saying that training is not finished, and whether Slurm resumes it.
    """
    before = checkpoint_steps(work)[:1]
    try:
        yield
    except OutOfTime as error:
        job = environment.get("SLURM_JOB_ID")
        if not job or checkpoint_steps(work)[:1] == before:
            raise
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, errors="replace")
        if asked.returncode:
            raise TrainingError(f"{error} Slurm did not requeue job {job} ({asked.stderr.strip()}).") from None
        raise TrainingError(f"{error} Slurm has requeued job {job}, which resumes by itself.") from None
