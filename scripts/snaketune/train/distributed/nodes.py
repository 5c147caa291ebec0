"""The machines that a training runs on: this one, or all nodes of its Slurm job."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from snaketune.core.errors import ConfigError, TrainingError

# Time that the other nodes' processes have to end after those of one node have.
GRACE_SECONDS = 60
# Each Slurm job uses a rendezvous port derived from its id, below Linux's ephemeral range (from 32768).
FIRST_PORT, PORTS = 15000, 15000
_TORCHRUN = 'exec "$0" -m torch.distributed.run'


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes that a training runs on.

    Attributes:
        count: number of nodes.
        first: name of the node of rank 0, where the rendezvous takes place.
        port: of the rendezvous.
        threads: CPU threads of the job on each node, as Slurm writes them.
    """

    count: int = 1
    first: str = "localhost"
    port: int = 0
    threads: str = "1"

    def launcher(self, processes: int) -> list[str]:
        """Return the command prefix that runs a Python script in ``processes`` processes over all nodes.

        The launcher ignores the signals that the training processes handle. Slurm sends SIGUSR1 to every process of a
        job, which would kill the launcher; a terminal sends SIGINT and SIGHUP, upon which it would end the training
        processes within 30 s. They inherit the ignored signals and are told to stop by
        :func:`~snaketune.train.distributed.strategy.run_workers`. Under ``srun``, which forwards each signal to all
        processes of its step, the launcher ignores SIGTERM as well: the training processes end by themselves.
        """
        # Without a place for its own logs, of which there are none, the launcher leaves a folder of them in /tmp.
        each = [f"--nproc-per-node={processes // self.count}", f"--log-dir={os.devnull}"]
        if self.count == 1:
            script = f'trap "" USR1 INT HUP; {_TORCHRUN} "$@"'
            return ["bash", "-c", script, sys.executable, "--standalone", "--signals-to-handle=SIGTERM", *each]
        # This process's own step holds all resources of the job; --overlap lets the new step share them.
        step = ["srun", "--overlap", f"--nodes={self.count}", f"--ntasks={self.count}", "--ntasks-per-node=1"]
        step += [f"--cpus-per-task={self.threads}", "--kill-on-bad-exit=0", f"--wait={GRACE_SECONDS}"]
        # Ranks follow Slurm's node order, so that a rank gets the same rows in every attempt.
        script = f'trap "" USR1 TERM; {_TORCHRUN} --node-rank="$SLURM_NODEID" "$@"'
        meeting = [f"--nnodes={self.count}", f"--master-addr={self.first}", f"--master-port={self.port}"]
        return [*step, "bash", "-c", script, sys.executable, *meeting, "--signals-to-handle=SIGINT", *each]


def find_nodes(count: int, environment: Mapping[str, str] = os.environ) -> Nodes:
    """Return the ``count`` nodes of the Slurm job that this process is part of; one node needs no Slurm.

    Raises:
        ConfigError: if this is no Slurm job or it has another number of nodes.
        TrainingError: if Slurm does not name them.
    """
    if count == 1:
        return Nodes()
    job, names = environment.get("SLURM_JOB_ID"), environment.get("SLURM_JOB_NODELIST")
    if not job or not names:
        raise ConfigError(
            f"plan.num_nodes: {count} but this is not a Slurm job, which would start processes on the other nodes: use"
            " `snakemake --profile profiles/slurm`, or set it to 1."
        )
    asked = subprocess.run(["scontrol", "show", "hostnames", names], capture_output=True, text=True, errors="replace")
    if asked.returncode:
        raise TrainingError(
            f"scontrol does not know the nodes {names} ({asked.stderr.strip()}): run the command again."
        )
    found = asked.stdout.split()
    if len(found) != count:
        raise ConfigError(
            f"plan.num_nodes: {count} and the Slurm job {job} has {len(found)} ({names}): do not set `nodes` of "
            "train_model; the workflow sets it."
        )
    threads = environment.get("SLURM_CPUS_PER_TASK", "1")
    return Nodes(count, found[0], FIRST_PORT + int(job) % PORTS, threads)
