"""Forks trainings that are meant to be killed: torch is imported once, each training then starts in milliseconds.

Usage: python kill_server.py FOLDER. Each line on standard input is JSON with the name of a work folder and the
settings that differ; the answers are a line ``pid N`` and, when it has ended, ``ended STATUS``.
"""

import gc
import json
import os
import sys
from pathlib import Path

import torch
from tiny_training import SETTINGS, configuration, write_base, write_splits

from snaketune.core.errors import SnaketuneError
from snaketune.train.device import prepare_arithmetic
from snaketune.train.run import build_trainer, train

KEYS = {"max_steps": 40, "logging_steps": 3, "eval_steps": 15}


def serve(folder: Path) -> None:
    """Answer requests until there are none."""
    prepare_arithmetic(1)
    base, rows = write_base(folder / "base"), write_splits(folder)
    build_trainer(base, *rows, configuration(**KEYS), SETTINGS, folder / "warm", prepare_arithmetic(1))
    gc.freeze()
    print("ready", flush=True)
    for request in map(json.loads, sys.stdin):
        child = os.fork()
        if not child:
            train_in_child(base, rows, folder / request.pop("work"), request)
        print(f"pid {child}", flush=True)
        print(f"ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", flush=True)


def train_in_child(base: Path, rows, work: Path, settings: dict) -> None:
    """Train as a script does, with its output in a file, and leave without the server's clean-up."""
    log = os.open(folder_of_log(work), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        train(base, *rows, configuration(**KEYS), {**SETTINGS, **settings}, work)
    except SnaketuneError as error:
        print(error, flush=True)
        os._exit(error.exit_code)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(99)
    os._exit(0)


def folder_of_log(work: Path) -> Path:
    return work.with_name(f"{work.name}.log")


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(Path(sys.argv[1]))
