"""benchmarks/train.py runs from a bare checkout: torch, transformers, peft, accelerate, pyarrow, numpy and yaml."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
MISSING = ("datasets", "snakemake", "trl", "orjson", "xxhash", "pydantic", "fastokens", "bitsandbytes")
# Python runs this before anything else, also in the processes that the benchmark starts.
HIDE = f"""
import importlib.machinery
original = importlib.machinery.PathFinder.find_spec.__func__
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {MISSING!r} else original(cls, name, path, target)
importlib.machinery.PathFinder.find_spec = classmethod(find_spec)
"""


@pytest.fixture
def bare(tmp_path):
    """Return the environment of a machine on which the packages of ``MISSING`` are not installed."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**os.environ, **one_thread, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}


def run(arguments, environment):
    command = [sys.executable, str(BENCHMARKS / "train.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")


def test_missing_packages_are_really_hidden(bare):
    code = "; ".join(["import importlib.util as u", *(f"assert u.find_spec({name!r}) is None" for name in MISSING)])
    subprocess.run([sys.executable, "-c", code], env=bare, check=True)
    failed = subprocess.run([sys.executable, "-c", "import orjson"], env=bare, capture_output=True, text=True)
    assert "ModuleNotFoundError" in failed.stderr


def test_quick_case_runs_without_them_and_says_what_it_left_out(bare):
    ended = run(["--quick", "--documents", "40", "--warmup", "1", "--cases", "trl", "trl-packed", "snaketune"], bare)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    [ours] = found["results"]
    assert ours["case"] == "snaketune" and ours["tokens_per_second"] > 0
    assert ours["documents_trained"] == 40
    assert ours["loss_after"] < ours["loss_before"]
    assert found["not_measured"] == [
        f"{case} is not measured: trl and datasets are not installed." for case in ("trl", "trl-packed")
    ]
    assert "| snaketune `fast` |" in ended.stderr


def test_unknown_case_is_one_sentence(bare):
    ended = run(["--quick", "--cases", "snaketuna"], bare)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "'snaketuna' is none of plain, trl, trl-packed, snaketune" in ended.stderr


@pytest.fixture
def workload(monkeypatch):
    """Return the module of the workload and a small one."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import train_workload

    return train_workload, train_workload.Workload("quick", 4000, 10, 0.25, 512, 1024, 1, 1e-3, 0, 1)


def test_drawn_lengths_have_the_published_quantiles(workload):
    module, small = workload
    lengths = module.document_lengths(small)
    assert len(lengths) == 4010 and lengths.max() == 512
    assert np.quantile(lengths, [0.5, 0.95]) == pytest.approx([266 / 4, 1174 / 4], rel=0.08)


@pytest.mark.parametrize(
    ("lines", "tokens"),
    [
        (["100", "100"], 100),
        (['{"length": 60}'], 60),
        (['{"messages": [{"role": "user", "content": "' + "x" * 396 + '"}]}'], 100),
    ],
)
def test_lengths_come_from_a_file(workload, tmp_path, lines, tokens):
    module, small = workload
    path = tmp_path / "lengths.jsonl"
    path.write_text("\n".join(lines))
    given = module.document_lengths(replace(small, lengths=str(path), scale=1.0))
    assert set(given.tolist()) == {tokens}


def test_corpus_is_the_same_every_time_and_trains_the_answers_only(workload):
    module, small = workload
    (one, _), (two, _) = module.corpora(small), module.corpora(small)
    ids, mask = one.document(7)
    assert np.array_equal(ids, two.document(7)[0]) and len(ids) == one.lengths[7]
    assert mask[0] == 0 and mask[-1] == 1 and 0.5 < mask.mean() < 0.7
    assert ids.min() > module.PAD


def test_our_case_allocates_as_a_training_in_the_workflow_does():
    (setting,) = re.findall(r"^MALLOC = .*", (ROOT / "rules" / "train.smk").read_text(), re.M)
    assert "hugetlb=1" in setting
    assert re.findall(r"^MALLOC = .*", (BENCHMARKS / "train.py").read_text(), re.M) == [setting]
