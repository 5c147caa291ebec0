"""What an ablation is of: its private folder, and the machine in ablate.json."""

from pathlib import Path
from typing import Any

from snaketune.ablate.request import Files
from snaketune.core.canonical import digest_of
from snaketune.plan.devices.machine import Machine
from snaketune.train.packages import versions_of


def folder_of(root: Path, run: str, spec: str, files: Files, machine: Machine) -> Path:
    """Return the folder for finished cases: another one when run, code, data, packages or machine are others."""
    parts = {
        "spec": spec,
        "data": files.rightsize["fingerprint"],
        "rows": files.pack["files"],
        "machine": machine_facts(machine),
        "host": machine.host,
    }
    return root / f"{run}-{digest_of(parts, size=8)}"


def machine_facts(machine: Machine) -> dict[str, Any]:
    """Return what the figures hold for: the device and the packages that compute on it."""
    return {"device": machine.gpu or "CPU", "ram_gb": round(machine.ram_gb, 1), "versions": versions_of()}
