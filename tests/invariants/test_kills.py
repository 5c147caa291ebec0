"""Killed at any instant and started again, a training ends in the same bytes as one that was left alone."""

import contextlib
import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_training import lines

HERE = Path(__file__).parent
FINAL = "checkpoint-40"
KILLS, KILLS_IN_A_CHECKPOINT = 20, 4


class Server:
    """Starts trainings in processes of their own."""

    def __init__(self, folder: Path):
        path = os.pathsep.join([str(HERE), str(HERE.parents[1] / "scripts")])
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "kill_server.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert self._answer() == "ready"

    def start(self, work: str, **settings) -> None:
        """Start a training."""
        print(json.dumps({"work": work, **settings}), file=self._process.stdin, flush=True)
        self._training = os.pidfd_open(int(self._answer().removeprefix("pid ")))

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the training, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._training, number)

    def watch(self, seen, seconds: float = 60) -> None:
        """Wait until ``seen()``, at most so long and only as long as the training lives."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not seen() and not select.select([self._training], [], [], 0.0005)[0]:
            pass

    def wait(self) -> int:
        """Wait until the training has ended and return its exit status, negative for a signal."""
        os.close(self._training)
        return int(self._answer().removeprefix("ended "))

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def log(self, work: str) -> str:
        return (self.folder / f"{work}.log").read_text()

    def digest(self, work: str) -> str:
        return hashlib.sha256((self.folder / work / FINAL / "adapter_model.safetensors").read_bytes()).hexdigest()

    def _answer(self) -> str:
        answer = self._process.stdout.readline().strip()
        assert answer, "the server of trainings has ended"
        return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("kills"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def undisturbed(server):
    """The digest and the metrics of a training that nobody disturbs, and the seconds it takes."""
    began = time.monotonic()
    server.start("undisturbed")
    assert server.wait() == 0, server.log("undisturbed")
    return server.digest("undisturbed"), lines(server.folder / "undisturbed"), time.monotonic() - began


def unfinished(work: Path) -> set[int]:
    """The checkpoints that are being written, or that were when their training was killed."""
    found = set()
    for path in work.glob(".partial/checkpoint-*"):
        with contextlib.suppress(FileNotFoundError):  # it has just got its final name
            found.add(path.stat().st_ino)
    return found


def test_killed_at_random_instants_it_ends_in_the_same_bytes(server, undisturbed):
    digest, metrics, seconds = undisturbed
    dice = random.Random(time.time_ns())
    kills = in_a_checkpoint = stories = 0
    while kills < KILLS or in_a_checkpoint < KILLS_IN_A_CHECKPOINT:
        stories += 1
        name, status = f"story-{stories}", None
        while status != 0:
            before = unfinished(server.folder / name)
            server.start(name, save_steps=dice.choice([1, 2, 5]))
            if kills < KILLS or in_a_checkpoint < KILLS_IN_A_CHECKPOINT:
                if dice.random() < 0.4:
                    server.watch(lambda: unfinished(server.folder / name) - before)  # noqa: B023
                    time.sleep(dice.uniform(0, 0.02))
                else:
                    time.sleep(dice.uniform(0.02, 0.8 * seconds))
                server.send(signal.SIGKILL)
            status = server.wait()
            assert status in (0, -signal.SIGKILL), server.log(name)
            kills += status != 0
            in_a_checkpoint += status != 0 and bool(unfinished(server.folder / name) - before)
        assert server.digest(name) == digest
        assert lines(server.folder / name) == metrics
        shutil.rmtree(server.folder / name)
    assert stories < kills  # some of them while a training went on after one


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_the_step_under_way_and_the_same_command_goes_on(server, undisturbed, number):
    work = server.folder / number.name
    server.start(number.name, save_steps="auto")
    server.watch(lambda: (work / "metrics.jsonl").is_file() and len(lines(work)) > 1)
    server.send(number)
    assert server.wait() == 5, server.log(number.name)
    saved = [path.name for path in work.glob("checkpoint-*")]
    assert len(saved) == 1
    step = saved[0].removeprefix("checkpoint-")
    sentence = server.log(number.name).splitlines()[-1]
    assert sentence.startswith(f"{number.name} received: step {step} of 40 is saved in")
    assert "run the same command to resume" in sentence
    server.start(number.name, save_steps="auto")
    assert server.wait() == 0
    assert f"Resuming from step {step}." in server.log(number.name)
    assert (server.digest(number.name), lines(work)) == undisturbed[:2]
