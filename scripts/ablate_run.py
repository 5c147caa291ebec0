"""Ablate a run: each optimisation of the guides off and on, and all together, measured on this machine.

Arguments:
    settings: operational settings: scratch and loading of rows.
    rightsize: rightsize.json of the run.
    tokens: manifest of the tokenised splits.
    records: training records as JSON lines.
    pack: manifest of the packed rows.
    model: manifest of the base model.
    stage: stage.json with the sources.
    work: folder of resumable state.
    name: name of the run.
    output: ablate.json to write.
"""

import os
import shutil
from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Measure every case that was not measured before an interruption, and write ablate.json."""
    names = ("settings", "rightsize", "tokens", "records", "pack", "model", "stage", "work", "output")
    arguments = parse_arguments(__doc__, *names, texts=("name",), facts=("output",))
    from snaketune.ablate.ablation import Ablation
    from snaketune.ablate.request import read_files, subject_of
    from snaketune.ablate.running import FreshProcesses, folder_of, machine_facts
    from snaketune.core.atomic import write_json
    from snaketune.core.gpus import take_cards
    from snaketune.core.locks import wait_for_lock
    from snaketune.plan.devices.machine import look_at_machine
    from snaketune.storage.disks import Disks

    take_cards()
    work = Path(arguments.work)
    # Compiled kernels are kept between the cases, as they are between trainings.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(work.absolute() / "compiled"))
    files = read_files(arguments, Disks.of(os.environ, work), arguments.settings.pop("scratch"), work)
    machine = look_at_machine(Path(arguments.output).parent)
    subject, here = subject_of(arguments.cfg, arguments.settings, files, machine)
    folder = folder_of(work / "ablate", arguments.name, arguments.spec, files, machine)
    # One at a time: two measurements on one device would measure each other.
    lock = wait_for_lock(work / "probes" / "lock")
    result = FreshProcesses(folder).result
    wanted = arguments.cfg["factors"]
    facts = Ablation(subject, here, wanted, folder, result, lambda line: print(line, flush=True)).run()
    write_json(arguments.output, {"run": arguments.name, "machine": machine_facts(machine), **facts})
    shutil.rmtree(folder)
    lock.close()


if __name__ == "__main__":
    run(main)
