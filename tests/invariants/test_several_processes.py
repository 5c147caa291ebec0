"""Several processes compute what one computes on the same rows, save, resume and publish the same files."""

import importlib.util
import re

import pytest
from safetensors.torch import load_file
from several_processes import train_together
from tiny_training import SETTINGS, Documents, configuration, lines, packed, write_splits

from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.checkpoints.checkpoints import newest_intact
from snaketune.train.run import train
from snaketune.train.training_job import with_session

DEEPSPEED = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="DeepSpeed is an extra")
STRATEGIES = ["ddp", "fsdp", *(pytest.param(f"deepspeed_zero{stage}", marks=DEEPSPEED) for stage in (2, 3))]
STEPS = 6


def case(strategy, batch, full=False, **train_keys):
    cfg = configuration(max_steps=STEPS, eval_steps=3, per_device_train_batch_size=batch, **train_keys)
    cfg["train"]["strategy"] = strategy
    if full:
        cfg["adapter"] = {"type": "none"}
        cfg["train"]["learning_rate"] = 1e-3
    return cfg


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    write_splits(folder)
    # An epoch of five steps, in the last of which one process has no row.
    rows = packed(folder / "train.arrow", Documents(18))
    assert len(rows) == 9
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    return PackedRows(folder / "train.arrow"), PackedRows(folder / "eval.arrow")


@pytest.fixture(scope="module", params=[False, True], ids=["lora", "full"])
def alone(request, base, rows, tmp_path_factory):
    work = tmp_path_factory.mktemp("alone")
    train(base, *rows, case("single", 2, request.param), SETTINGS, work)
    return request.param, work


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_of_one_row_are_one_process_of_two(strategy, alone, base, folder, tmp_path):
    full, reference = alone
    train_together(case(strategy, 1, full), base, folder, tmp_path)
    readers = {path.name for path in tmp_path.glob("read-by-*")}
    shares = strategy in ("fsdp", "deepspeed_zero3")
    assert readers == ({"read-by-0"} if shares else {"read-by-0", "read-by-1"})
    found, expected = lines(tmp_path), lines(reference)
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5), "tokens of both processes, token-weighted loss, gradient norm"
    name = "model.safetensors" if full else "adapter_model.safetensors"
    weights, wanted = (load_file(newest_intact(work, work.name) / name) for work in (tmp_path, reference))
    assert weights.keys() == wanted.keys()
    for key in wanted:
        assert (weights[key] - wanted[key]).abs().max() < 1e-4, key


def test_a_process_that_hangs_is_named_before_the_others_are_torn_down(base, folder, tmp_path, capfd):
    with pytest.raises(TrainingError, match="2 training processes did not finish"):
        train_together(case("ddp", 1), base, folder, tmp_path, hangs=(1, 2, 4.0))
    said = [line for line in capfd.readouterr().err.splitlines() if "waited for" in line]
    assert len(said) == 1
    assert re.search(
        r"TrainingError: process 0 of 2 waited for 0\.1 minutes for process 1, which did not reach", said[0]
    )


RESUMED = [
    pytest.param("fsdp", False, id="fsdp-lora"),
    pytest.param("fsdp", True, marks=pytest.mark.slow, id="fsdp-full"),
    *(
        pytest.param(f"deepspeed_zero{stage}", full, marks=DEEPSPEED, id=f"zero{stage}-{'full' if full else 'lora'}")
        for stage in (2, 3)
        for full in (False, True)
    ),
]


@pytest.mark.parametrize(("strategy", "full"), RESUMED)
def test_an_interrupted_training_of_two_resumes_to_the_same_bytes(strategy, full, base, rows, folder, tmp_path):
    cfg = case(strategy, 1, full, logging_steps=4)
    train_together(cfg, base, folder, tmp_path / "whole")
    work = tmp_path / "halves"
    with pytest.raises(TrainingError, match="run the same command to resume from the last checkpoint"):
        train_together(cfg, base, folder, work, stop_after=3)
    assert newest_intact(work, work.name).name == "checkpoint-3"
    train_together(cfg, base, folder, work)
    halves = with_session(work, train(base, *rows, cfg, SETTINGS, work))
    assert (halves.steps, halves.resumed_from) == (STEPS, 3)
    assert lines(work) == lines(tmp_path / "whole")
    name = "model.safetensors" if full else "adapter_model.safetensors"
    files = [folder / f"checkpoint-{STEPS}" / name for folder in (work, tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


@DEEPSPEED
@pytest.mark.parametrize(("strategy", "offload"), [("zero2", "cpu"), ("zero3", "cpu"), ("zero3", "nvme")])
def test_what_is_offloaded_trains_the_same(strategy, offload, alone, base, folder, tmp_path):
    full, reference = alone
    train_together(case(f"deepspeed_{strategy}", 1, full, offload=offload), base, folder, tmp_path)
    for one, other in zip(lines(tmp_path), lines(reference), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert not list(tmp_path.rglob("*.swp"))


@DEEPSPEED
@pytest.mark.parametrize("strategy", ["deepspeed_zero2", "deepspeed_zero3"])
def test_recomputed_layers_train_the_same(strategy, alone, base, folder, tmp_path):
    full, reference = alone
    train_together(case(strategy, 1, full, gradient_checkpointing=True), base, folder, tmp_path)
    for one, other in zip(lines(tmp_path), lines(reference), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
