"""Two hosts in network namespaces of this machine, with stand-ins for the two commands of Slurm that training calls."""

import os
import shutil
import subprocess
from pathlib import Path

NAMES = ("snaketune-a", "snaketune-b")
ADDRESSES = ("10.213.77.1", "10.213.77.2")
DEVICE = "eth-tune"

# Runs the command behind the options once on each host, all of them at once, and ends as the worst of them does.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "$1" >>"$SRUN_OPTIONS"; shift; done
hosts=({names}) pids=()
for node in 0 1; do
    SLURM_NODEID=$node ip netns exec "${{hosts[$node]}}" "$@" &
    pids+=($!)
done
worst=0
for pid in "${{pids[@]}}"; do wait "$pid" || worst=$?; done
exit $worst
"""
SCONTROL = """#!/bin/bash
[ "$1 $2 $3" = "show hostnames host[1-2]" ] && printf '%s\\n' {addresses}
"""


def ip(*arguments: str) -> None:
    """Call ip and let it fail."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def set_up_hosts() -> str:
    """Connect two namespaces by a cable; return why that is not possible here, or nothing."""
    if not shutil.which("ip"):
        return "the command ip is not installed"
    remove_hosts()
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", DEVICE, "netns", NAMES[0], "type", "veth", "peer", "name", DEVICE, "netns", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", DEVICE)
            ip("-n", name, "link", "set", DEVICE, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        remove_hosts()
        return f"network namespaces are not permitted here ({error.stderr.decode().strip()})"
    return ""


def remove_hosts() -> None:
    """Take the namespaces away, with the cable."""
    for name in NAMES:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def slurm_job(folder: Path) -> dict[str, str]:
    """Return the environment of a process in a Slurm job on both hosts; the stand-ins are written to ``folder``."""
    folder.mkdir()
    texts = {"srun": SRUN.format(names=" ".join(NAMES)), "scontrol": SCONTROL.format(addresses=" ".join(ADDRESSES))}
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "host[1-2]",
        "SLURM_CPUS_PER_TASK": "3",
        "SRUN_OPTIONS": str(folder / "options"),
        "GLOO_SOCKET_IFNAME": DEVICE,
    }
