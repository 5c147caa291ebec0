"""Where the processes of a training run: on this machine, or on every node of the Slurm job that it is part of."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from snaketune.common.errors import ConfigError, TrainingError

# Longer than a checkpoint takes: torch's launcher kills after half a minute what it has told to end.
GRACE_SECONDS = 600
# Ports for the processes to meet at, one per Slurm job; below those that Linux hands out by itself.
FIRST_PORT, PORTS = 15000, 15000
# The launcher is deaf to SIGUSR1, which Slurm sends to every process of a job: it hears SIGTERM from ours instead.
_DEAF = "trap '' USR1; exec \"$0\" -m torch.distributed.run "
_NODE_RANK = '--node-rank="$SLURM_NODEID" '


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes that a training runs on.

    Attributes:
        count: how many.
        first: name of the one with the first process, where the others meet it.
        port: the port there.
    """

    count: int = 1
    first: str = "localhost"
    port: int = 0

    def launcher(self, processes: int, threads: int) -> list[str]:
        """Return the command that runs a Python script, its arguments behind, in ``processes`` processes on all nodes.

        Ranks follow the order of the nodes, so that the same command always gives a row to the same rank.

        Args:
            processes: over all nodes.
            threads: CPU threads of a node that the job has.
        """
        each = [f"--nproc-per-node={processes // self.count}", f"--shutdown-timeout={GRACE_SECONDS}"]
        if self.count == 1:
            return ["bash", "-c", f'{_DEAF}--standalone "$@"', sys.executable, *each]
        # The step that this process is in holds what the job was given; --overlap lets the launchers share it.
        step = ["srun", "--overlap", "--kill-on-bad-exit=0", f"--nodes={self.count}", f"--ntasks={self.count}"]
        step += ["--ntasks-per-node=1", f"--cpus-per-task={threads}"]
        meeting = [f"--nnodes={self.count}", f"--master-addr={self.first}", f"--master-port={self.port}"]
        return [*step, "bash", "-c", f'{_DEAF}{_NODE_RANK}"$@"', sys.executable, *meeting, *each]


def find_nodes(count: int, environment: Mapping[str, str] = os.environ) -> Nodes:
    """Return the ``count`` nodes of the Slurm job that this process is part of; one is this machine, with any scheduler.

    Raises:
        ConfigError: if this is no Slurm job or it has another number of nodes.
        TrainingError: if Slurm does not name them.
    """
    if count == 1:
        return Nodes()
    job, names = environment.get("SLURM_JOB_ID"), environment.get("SLURM_JOB_NODELIST")
    if not job or not names:
        raise ConfigError(
            f"plan.num_nodes: {count} and this is no job of Slurm, which would start processes on the others: use"
            " `snakemake --profile profiles/slurm`, or set it to 1."
        )
    done = subprocess.run(["scontrol", "show", "hostnames", names], capture_output=True, text=True)
    if done.returncode:
        raise TrainingError(f"scontrol does not say which nodes {names} are ({done.stderr.strip()}): ask for them again.")
    found = done.stdout.split()
    if len(found) != count:
        raise ConfigError(
            f"plan.num_nodes: {count} and the Slurm job {job} has {len(found)} ({names}): remove `nodes` from the"
            " profile's resources of train_model, which the workflow sets."
        )
    return Nodes(count, found[0], FIRST_PORT + int(job) % PORTS)


def require_share(processes: int, nodes: int, available: int, strategy: Sequence[str] = ()) -> None:
    """Check that every node can run its share.

    Args:
        processes: over all nodes.
        nodes: number of nodes.
        available: GPUs of this node; 0 is a CPU, which runs any number.

    Raises:
        ConfigError: if a node would need more GPUs than it has.
    """
    wanted = processes // nodes
    if 0 < available < wanted:
        place = f"plan.num_gpus: {processes} over {nodes} nodes is {wanted} on each" if nodes > 1 else (
            f"plan.num_gpus: {processes}"
        )
        raise ConfigError(f"{place} and this machine has {available}: use {available * nodes} or less.")
