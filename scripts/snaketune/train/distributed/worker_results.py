"""What the processes of a training know about it, kept for the one that started them and publishes."""

import dataclasses
from pathlib import Path

from snaketune.core.atomic import write_json
from snaketune.core.canonical import read_json
from snaketune.train.distributed.process_group import ProcessGroup
from snaketune.train.run import Finished

SESSION = "session.json"


def note_session(work: Path, finished: Finished) -> None:
    """Keep the volatile facts of a training that several processes finished; the first of them writes."""
    if ProcessGroup.of_environment().is_main_process:
        facts = {"resumed_from": finished.resumed_from, "tokens_this_time": finished.tokens_this_time}
        write_json(work / SESSION, {**facts, "info": finished.info})


def with_session(work: Path, finished: Finished) -> Finished:
    """Return a training that was found complete with what :func:`note_session` kept of it, if it did."""
    path = work / SESSION
    return dataclasses.replace(finished, **read_json(path)) if path.is_file() else finished
