"""One of several processes of a training, for the tests: its arguments are a JSON file."""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.distributed import process_group
from snaketune.train.distributed.process_group import ProcessGroup
from snaketune.train.loading import loading
from snaketune.train.run import train
from snaketune.train.signals import StopRequest
from snaketune.train.trainer import PackedTrainer
from snaketune.train.training_job import note_session


def stop_first_process_after(step: int) -> None:
    """Let one process alone be told to stop, as when a signal reaches them at different instants."""
    listen = StopRequest.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == step and ProcessGroup.of_environment().is_main_process:
            self.reason = "the test said so"
        listen(self, args, state, control, **kwargs)

    StopRequest.on_step_end = on_step_end


def note_who_reads(work: Path) -> None:
    """Let each process that reads the weights of the base model say so."""
    read = loading.open_model

    def open_model(*arguments, **options):
        (work / f"read-by-{ProcessGroup.of_environment().rank}").touch()
        return read(*arguments, **options)

    loading.open_model = open_model


def hang(rank: int, step: int, patience: float) -> None:
    """Let one process stop between two steps forever, and shorten the time that the others wait for it."""
    process_group.PATIENCE = timedelta(seconds=patience)
    step_of = PackedTrainer.training_step

    def training_step(self, *args, **kwargs):
        while self._process_group.rank == rank and self.state.global_step == step:
            time.sleep(0.1)
        return step_of(self, *args, **kwargs)

    PackedTrainer.training_step = training_step


def main(path: Path) -> None:
    given = json.loads(path.read_text())
    if given["hangs"]:
        hang(*given["hangs"])
    note_who_reads(Path(given["work"]))
    stop_first_process_after(given["stop_after"])
    base, rows, work = Path(given["base"]), Path(given["rows"]), Path(given["work"])
    splits = [PackedRows(rows / name) for name in ("train.arrow", "eval.arrow")]
    note_session(work, train(base, splits[0], splits[1], given["cfg"], given["settings"], work))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
