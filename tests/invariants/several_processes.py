"""A training in several processes, for the tests."""

import json
import os
import sys
from pathlib import Path
from unittest import mock

import preloaded
from tiny_training import SETTINGS

from snaketune.train.distributed.strategy import ONE_NODE, run_workers

WORKER = Path(__file__).parent / "training_process.py"
SCRIPTS = Path(__file__).parents[2] / "scripts"


def train_together(cfg, base, folder, work, stop_after=None, count=2, settings=SETTINGS, nodes=ONE_NODE, hangs=None):
    """Train in ``count`` processes; ``hangs`` is a rank, the step at which it hangs, and the seconds others wait."""
    work.mkdir(exist_ok=True)
    given = {"base": str(base), "rows": str(folder), "work": str(work), "cfg": cfg, "settings": settings}
    (work / "case.json").write_text(json.dumps({**given, "stop_after": stop_after, "hangs": hangs}))
    path = os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])
    python = preloaded.python() if nodes is ONE_NODE else sys.executable
    (temporary := work / "temporary").mkdir(exist_ok=True)
    variables = {"PYTHONPATH": path, "TMPDIR": str(temporary)}
    with mock.patch.dict(os.environ, variables), mock.patch.object(sys, "executable", python):
        run_workers(count, [str(WORKER), str(work / "case.json")], nodes)
    assert list(temporary.iterdir()) == [], "a training left temporary files"
