"""The training core is importable where only torch, transformers, peft, accelerate, pyarrow and numpy are installed."""

import os
import subprocess
import sys
from pathlib import Path

CORE = [
    "train.trainer",
    "train.arguments",
    "train.batches",
    "train.loading.loading",
    "train.kernels.chunked_cross_entropy",
    "train.kernels.attention",
    "train.kernels.compiling",
    "train.kernels.float8",
    "train.kernels.activations",
    "train.device",
    "train.engine",
    "train.loading.quantization",
    "train.preference.dpo",
    "train.preference.dpo_trainer",
    "train.safety",
    "train.monitoring.step_timers",
    "train.checkpoints.checkpoint_schedule",
    "train.monitoring.mfu",
    "data.rows.packed_rows",
    "data.rows.packing",
    "plan.flops",
    "plan.memory.memory",
    "plan.memory.counting",
    "plan.devices.hardware",
]
SCRIPT = """
import importlib, sys
ABSENT = "orjson xxhash pydantic datasets trl jinja2 snakemake bitsandbytes".split()
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name in ABSENT and self.is_ours(sys._getframe(1)):
            raise ModuleNotFoundError(name)
    def is_ours(self, frame):
        while frame.f_globals["__name__"].startswith("importlib") or "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        return frame.f_globals["__name__"].startswith("snaketune")
sys.meta_path.insert(0, Bare())
for name in sys.argv[1:]:
    importlib.import_module(f"snaketune.{name}")
"""


def test_the_core_needs_nothing_but_torch_and_its_libraries():
    scripts = Path(__file__).parents[2] / "scripts"
    environment = {**os.environ, "PYTHONPATH": str(scripts), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", SCRIPT, *CORE], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
