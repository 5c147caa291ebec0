"""The lines of metrics.jsonl and who else gets them."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from snaketune.train.monitoring.metrics import VOLATILE_METRICS, MetricsWriter, live_line, read_metrics
from snaketune.train.monitoring.mfu import TrainingFlops
from snaketune.train.monitoring.sinks import open_sinks
from snaketune.train.monitoring.step_timers import BatchFacts, TimeSplit, TokenCounter
from snaketune.train.safety import LossWatch

LOGS = {"loss": 2.0, "learning_rate": 1e-3, "grad_norm": 0.5, "epoch": 0.1}


class Sink:
    """Keeps what it is given."""

    def __init__(self):
        self.lines, self.closed = [], False

    def write(self, line):
        self.lines.append(line)

    def close(self):
        self.closed = True


def state(step):
    return SimpleNamespace(global_step=step, max_steps=10)


def writer(path, **settings):
    now = [0.0]
    made = MetricsWriter(path, TokenCounter(), TimeSplit(lambda: now[0]), LossWatch(None), **settings)
    return made, now


def test_a_line_has_every_measure_and_rates_are_those_of_training_alone(tmp_path):
    sink = Sink()
    metrics, now = writer(tmp_path / "metrics.jsonl", mfu=lambda t, s, seconds: t * s / seconds, sinks=[sink])
    metrics.on_train_begin(None, state(0), None)
    metrics._counter.add(BatchFacts((0,), 100, 60, 5000))
    with metrics._times.spending("checkpoint"):
        now[0] += 3.0
    now[0] += 2.0
    metrics.on_log(None, state(5), None, logs=dict(LOGS))
    metrics.on_log(None, state(5), None, logs={"eval_loss": 1.5, "eval_accuracy": 0.5, "epoch": 0.1})
    line, held_out = read_metrics(tmp_path / "metrics.jsonl")
    stable = {name: value for name, value in line.items() if name not in VOLATILE_METRICS}
    assert stable == {
        "step": 5,
        "loss": 2.0,
        "learning_rate": 1e-3,
        "grad_norm": 0.5,
        "tokens": 100,
        "trained_tokens": 60,
    }
    assert (line["tokens_per_second"], line["mfu"]) == (50.0, 100 * 5000 / 2.0)
    assert (line["compute_seconds"], line["checkpoint_seconds"]) == (2.0, 3.0)
    assert line["memory_gb"] > 0.01
    assert set(VOLATILE_METRICS) <= set(line)
    assert held_out == {"step": 5, "eval_loss": 1.5, "eval_accuracy": 0.5}
    assert sink.lines == [line, held_out]
    metrics.on_train_end(None, state(5), None)
    assert sink.closed


def test_lines_after_the_checkpoint_are_forgotten(tmp_path):
    metrics, _ = writer(tmp_path / "metrics.jsonl")
    metrics.on_train_begin(None, state(0), None)
    for step in (2, 4, 6):
        metrics.on_log(None, state(step), None, logs=dict(LOGS))
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 8, "lo')
    again, _ = writer(tmp_path / "metrics.jsonl")
    again.on_train_begin(None, state(5), None)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2, 4]


def test_the_live_line_is_short():
    line = {"step": 10, "loss": 1.5, "learning_rate": 2e-4, "tokens_per_second": 12_473.2, "mfu": 0.4213}
    text = live_line(line, 250, 0.0)
    assert text.startswith("step 10/250  loss 1.5000  lr 2.00e-04  12,473 tokens/s  MFU 42%  ends ")
    assert len(text) < 100
    assert "MFU" not in live_line({**line, "mfu": None}, 250, 0.0)


def test_utilisation_is_the_model_s_work_over_the_peak_and_unknown_without_one():
    from snaketune.plan.flops import ModelShape, model_flops

    shape = ModelShape(8_000_000_000, 500_000_000, 32, 4096)
    flops = model_flops(shape, 12_500, 12_500 * 2000, 40_000_000)
    flops_of_run = TrainingFlops(shape, 40_000_000, False, 989e12)
    assert flops_of_run.utilization(12_500, 12_500 * 2000, 1.0) == pytest.approx(flops / 989e12, abs=1e-4)
    assert TrainingFlops(shape, 40_000_000, False, None).utilization(12_500, 12_500 * 2000, 1.0) is None


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_sink_gets_numbers_with_their_step_and_is_ended(name, tmp_path, monkeypatch):
    calls = []
    module = ModuleType(name)
    module.init = lambda **settings: calls.append(("init", settings["project"], settings["name"]))
    module.log = lambda values, step: calls.append(("log", values, step))
    module.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, name, module)
    (sink,) = open_sinks([name], tmp_path / "abc", {})
    sink.write({"step": 3, "loss": 1.0, "mfu": None})
    sink.close()
    assert calls == [("init", "snaketune", "abc"), ("log", {"loss": 1.0}, 3), ("finish",)]


def test_tensorboard_draws_each_number(tmp_path, monkeypatch):
    drawn = []
    writer = SimpleNamespace(add_scalar=lambda *point: drawn.append(point), close=lambda: drawn.append("closed"))
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda folder: writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    (sink,) = open_sinks(["tensorboard"], tmp_path, {})
    sink.write({"step": 3, "loss": 1.0, "mfu": None})
    sink.close()
    assert drawn == [("loss", 1.0, 3), "closed"]


def test_the_terminal_has_the_first_line_the_last_and_one_in_a_while(tmp_path, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("snaketune.train.monitoring.metrics.time.monotonic", lambda: clock[0])
    metrics, _ = writer(tmp_path / "metrics.jsonl")
    metrics.on_train_begin(None, state(0), None)
    for step in range(1, 11):
        clock[0] += 10.0
        metrics.on_log(None, state(step), None, logs=dict(LOGS))
    shown = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert shown == ["1/10", "4/10", "7/10", "10/10"]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 10
