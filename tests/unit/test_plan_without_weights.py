"""A model folder without weights: planned in little memory, and never trained."""

import json
import os
import subprocess
from pathlib import Path

import preloaded
import pytest
from model_case import prepare_model
from plan_case import PACK, RIGHTSIZE, SETTINGS, sections
from plan_models import LLAMA_2_13B, SMALL_MODELS, YI_34B

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.canonical import canonical_text, pretty_bytes, read_json
from snaketune.core.errors import ConfigError
from snaketune.model.tiny.tiny_tokenizer import train_tokenizer
from snaketune.train.loading.origins import find_origins
from snaketune.workflow.stages import slice_of, stage_id

ROOT = Path(__file__).parents[2]


def shape(folder: Path, config) -> Path:
    """A model folder with its configuration and a tokenizer, and nothing else."""
    config.save_pretrained(folder)
    train_tokenizer(["hello world"], 270, 4096).save_pretrained(folder)
    return folder


def prepared(folder: Path, config) -> dict:
    cfg = {"name_or_path": str(shape(folder / "given", config)), "revision": None, "trust_remote_code": False}
    return prepare_model(cfg, folder / "model", weights=False)


# The memory of a process that is forked with its packages imported includes theirs, also of those that a plan does not
# need.
MEASURED = """
import atexit, re, runpy, sys
from pathlib import Path

peak, script = sys.argv[1:3]
sys.argv[:3] = [script]
sys.path.insert(0, str(Path(script).parent))
status = Path("/proc/self/status")
atexit.register(lambda: Path(peak).write_text(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]))
runpy.run_path(script, run_name="__main__")
"""


def planned(folder: Path, config, **changed) -> tuple[dict, int]:
    """plan.json as the job makes it from a folder without weights, with the job's peak memory in bytes."""
    facts = prepared(folder, config)
    files = {"rightsize": RIGHTSIZE, "pack": PACK, "manifest": {**facts, "files": {}}}
    for name, value in files.items():
        (folder / f"{name}.json").write_bytes(pretty_bytes(value))
    spec = {"stage": "plan_run", "code": "", "cfg": sections(**changed)}
    (folder / "measured.py").write_text(MEASURED)
    command = [preloaded.python(), str(folder / "measured.py")]
    command += [str(folder / "peak"), str(ROOT / "scripts" / "plan_run.py")]
    command += ["--spec", canonical_text(spec)]
    command += ["--settings", canonical_text(SETTINGS), "--results", str(folder), "--name", "run", "--benchmarks", "{}"]
    paths = {"rightsize": "rightsize.json", "pack": "pack.json", "model": "manifest.json", "output": "plan.json"}
    command += [part for name, file in paths.items() for part in (f"--{name}", str(folder / file))]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = int((folder / "peak").read_text()) * 1024
    return read_json(folder / "plan.json"), peak


@pytest.mark.parametrize(
    ("config", "parameters", "trained"),
    [(LLAMA_2_13B, 13_015_864_320, 125_173_760), (YI_34B, 34_388_917_248, 245_760_000)],
    ids=["Llama-2-13B", "Yi-34B"],
)
def test_large_shapes_are_planned_within_1_gb(tmp_path, config, parameters, trained):
    plan, peak = planned(tmp_path, config, plan={"gpu": "h200-sxm"}, adapter={"r": 32})
    assert (plan["work"]["parameters"], plan["work"]["trained"]) == (parameters, trained)
    assert plan["memory_gb"] > 2 * parameters / 1e9
    assert plan["disk"]["there"] > 2 * parameters / 1e9  # weights that still have to come
    assert peak <= 1e9


def test_a_folder_without_weights_is_counted_by_its_configuration(tmp_path):
    facts = prepared(tmp_path, SMALL_MODELS["llama"])
    assert facts["weights_digest"] is None
    assert facts["parameters"] > 1_000_000
    assert not list((tmp_path / "model").glob("*.safetensors"))
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"


def test_without_the_switch_missing_weights_are_an_error(tmp_path):
    given = shape(tmp_path / "given", SMALL_MODELS["llama"])
    cfg = {"name_or_path": str(given), "revision": None, "trust_remote_code": False}
    with pytest.raises(ConfigError, match=r"has no model\.safetensors"):
        prepare_model(cfg, tmp_path / "model")


def test_what_was_prepared_for_planning_never_trains():
    with pytest.raises(ConfigError, match=r"plan\.without_weights: true prepared m for planning only"):
        find_origins({"weights_digest": None, "name": "m"}, None)


def test_the_switch_is_part_of_the_identity_only_when_it_is_on():
    def prepare(**plan):
        file = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "org/m"}}
        return resolve_runs(Layer("c", file), {"plan": plan}, "nowhere")[0].config

    assert "plan" not in slice_of(prepare(), "prepare_model")
    assert stage_id(prepare(), "prepare_model") == stage_id(prepare(max_hours=3), "prepare_model")
    assert stage_id(prepare(), "prepare_model") != stage_id(prepare(without_weights=True), "prepare_model")
