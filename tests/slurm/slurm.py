"""A real Slurm of one node on this machine, from Debian's packages: as root, without systemd or a database."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

CONFIGURATION = Path("/etc/slurm")
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
PLUGIN = "snakemake_executor_plugin_slurm"
# Steps find their configuration in /etc/slurm only. More cores than there may be, so that the profile's jobs fit; a
# short life of credentials, because a requeued job waits that long.
SLURM_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
AuthInfo=socket={folder}/munge.socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdSpoolDir={folder}/slurmd
StateSaveLocation={folder}/slurmctld
SlurmUser=root
SwitchType=switch/none
MinJobAge=3600
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=256000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GRES_CONF = "NodeName={host} Name=gpu File=/dev/null\n"


def why_not() -> str:
    """Return why Slurm cannot be started here, or nothing."""
    if os.geteuid():
        return "Slurm's daemons need root"
    missing = [name for name in COMMANDS if not shutil.which(name)]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)}): apt-get install slurmctld slurmd slurm-client munge"
    if not importlib.util.find_spec(PLUGIN):
        return "Snakemake's plugin is not installed: pip install -r envs/extras/slurm.txt -c constraints.txt"
    if (CONFIGURATION / "slurm.conf").exists():
        return f"{CONFIGURATION}/slurm.conf is that of another Slurm"
    return ""


@contextlib.contextmanager
def running(folder: Path):
    """Run Slurm with its state in ``folder``, and end all of its processes afterwards."""
    host = socket.gethostname().split(".")[0]
    files = {"slurm.conf": SLURM_CONF, "gres.conf": GRES_CONF}
    CONFIGURATION.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        for name, text in files.items():
            stack.callback((CONFIGURATION / name).unlink)
            (CONFIGURATION / name).write_text(text.format(host=host, folder=folder))
        stack.callback(_end, folder)
        try:
            _start(folder)
        except (subprocess.CalledProcessError, TimeoutError) as error:
            pytest.skip(f"Slurm does not start here: {error}")
        yield


def _start(folder: Path) -> None:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o400)
    names = {"key-file": key.name, "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    options = [f"--{option}={folder / name}" for option, name in (names | {"seed-file": "munge.seed"}).items()]
    # The folders above belong to root alone, which is all that is needed here and less than munge expects.
    subprocess.run(["munged", "--force", *options], check=True, stderr=subprocess.DEVNULL)
    for name in ("slurmctld", "slurmd"):
        (folder / name).mkdir()
        subprocess.run([name], check=True)
    wait_until(lambda: "idle" in call("sinfo", "--noheader", "--format=%t"), "idle node", seconds=60)


def _end(folder: Path) -> None:
    with contextlib.suppress(subprocess.CalledProcessError, TimeoutError):
        call("scancel", "--full", "--signal=KILL", "--user=root")
        wait_until(lambda: not call("squeue", "--noheader"), "end of the jobs", seconds=30)
    for name in ("slurmd.pid", "slurmctld.pid", "munge.pid"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((folder / name).read_text()), signal.SIGTERM)


def call(*command: str) -> str:
    """Return what a command of Slurm prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wait_until(condition, what: str, seconds: float = 400):
    """Return what ``condition`` returns as soon as it is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise TimeoutError(f"no {what} after {seconds} s")
