"""Variables that other tools leave in a shell change no byte of an adapter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest
from tiny_training import SETTINGS, configuration, digest, write_splits

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.run import train

HERE = Path(__file__).parent
# A job as a script of the workflow is one: the frame of every script, then heavy imports and the work.
JOB = """
import hashlib, json, sys
from pathlib import Path
from snaketune.core.cli import run

def main():
    from snaketune.data.rows.packed_rows import PackedRows
    from snaketune.train.run import train
    base, rows, work, case = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
    splits = [PackedRows(rows / name) for name in ("train.arrow", "eval.arrow")]
    finished = train(base, *splits, case["cfg"], case["settings"], work)
    weights = (finished.checkpoint / "adapter_model.safetensors").read_bytes()
    print("digest", hashlib.sha256(weights).hexdigest())

run(main)
"""
LEFT = {
    "accelerate": {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_FSDP": "true", "LOCAL_RANK": "0"},
    "a pod's second worker, and arithmetic": {
        **{"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"},
        **{"PET_NPROC_PER_NODE": "2", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_MIXED_PRECISION": "fp8"},
        **{"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    },
}

AT_IMPORT = {"ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA"}


def digest_under(left, base, folder, work):
    """The digest of the adapter that a job trains in an environment with what is ``left`` there.

    Kernels read theirs when they are loaded: that job is not forked from a process that has loaded them.
    """
    python = sys.executable if AT_IMPORT & left.keys() else preloaded.python()
    (script := work / "job.py").write_text(JOB)
    case = json.dumps({"cfg": configuration(max_steps=2), "settings": SETTINGS})
    done = subprocess.run(
        [python, str(script), str(base), str(folder), str(work), case],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1] / "scripts"), **left},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split("digest ")[1].strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    write_splits(folder)
    return folder


@pytest.fixture(scope="module")
def expected(base, folder, tmp_path_factory):
    rows = (PackedRows(folder / name) for name in ("train.arrow", "eval.arrow"))
    return digest(train(base, *rows, configuration(max_steps=2), SETTINGS, tmp_path_factory.mktemp("bare")))


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_the_same_bytes_under_what_other_tools_leave(left, expected, base, folder, tmp_path):
    assert digest_under(left, base, folder, tmp_path) == expected
