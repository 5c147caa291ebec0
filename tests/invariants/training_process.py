"""One of several processes of a training, for the tests: its arguments are a JSON file."""

import json
import sys
from pathlib import Path

from snaketune.data.rows import PackedRows
from snaketune.train import loading
from snaketune.train.run import train
from snaketune.train.session import note_session
from snaketune.train.signals import StopRequest
from snaketune.train.team import Team


def stop_first_process_after(step: int) -> None:
    """Let one process alone be told to stop, as when a signal reaches them at different instants."""
    listen = StopRequest.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == step and Team.of_environment().is_first:
            self.reason = "the test said so"
        listen(self, args, state, control, **kwargs)

    StopRequest.on_step_end = on_step_end


def note_who_reads(work: Path) -> None:
    """Let each process that reads the weights of the base model say so."""
    read = loading.open_model

    def open_model(*arguments):
        (work / f"read-by-{Team.of_environment().rank}").touch()
        return read(*arguments)

    loading.open_model = open_model


def main(path: Path) -> None:
    given = json.loads(path.read_text())
    note_who_reads(Path(given["work"]))
    stop_first_process_after(given["stop_after"])
    base, rows, work = Path(given["base"]), Path(given["rows"]), Path(given["work"])
    splits = [PackedRows(rows / name) for name in ("train.arrow", "eval.arrow")]
    note_session(work, train(base, splits[0], splits[1], given["cfg"], given["settings"], work))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
