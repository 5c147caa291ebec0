"""What a probe does to a plan, and which settings autotuning tries."""

import json
from datetime import datetime

import pytest
from plan_case import MODEL, plan_of
from test_plan_planning import A100, finished_run

from snaketune.core.errors import TrainingError
from snaketune.plan.candidates import Candidate, advice, row_choices, worker_choices
from snaketune.plan.costs.probed import describe_probe
from snaketune.plan.summary import describe_plan
from snaketune.train.out_of_memory import MemoryExhaustedError

GPU = {"name": "NVIDIA A100-SXM4-80GB"}


def record(gpu=GPU, measured_at="2026-11-20T09:00:00+0000", autotune=None, **found):
    """What a probe left."""
    probe = {
        "tokens_per_second": 12_000.0,
        "rates": [11_000.0, 12_000.0, 12_500.0],
        "spread": 0.125,
        "peak_memory_bytes": 25_000_000_000,
        "save_seconds": 2.5,
        "start_seconds": 40.0,
        "evaluation_seconds": 2.0,
        "evaluation_tokens": 35_000,
        "measured_steps": 30,
    }
    return {
        "identity": "abc",
        "measured_at": measured_at,
        "machine": {"gpu": gpu, "host": "there"},
        "load": 0.5,
        "origin": "measured",
        "probe": probe | found,
        "autotune": autotune,
    }


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    return plan_of(tmp_path_factory.mktemp("plan"), {"probe": record()}, plan=A100, train={"eval_steps": 50})


def test_a_probe_replaces_the_estimate_everywhere(probed):
    assert probed["rate"]["origin"] == "measured"
    assert "probe of 30 steps on 20 Nov 2026" in probed["rate"]["source"]
    assert probed["train_hours"] == pytest.approx(1_750_000 / 12_000 / 3600, rel=1e-4)
    over = probed["overheads"]
    assert (over["seconds_per_save"], over["saves_origin"]) == (2.5, "measured")
    assert over["start_hours"] == pytest.approx(40 / 3600, rel=1e-4)
    assert over["evaluation_hours"] * 3600 == pytest.approx(over["evaluations"] * 17_500 / 17_500, rel=1e-4)
    assert probed["memory_gb"] == pytest.approx(25.8)
    for name in ("train_hours", "hours", "cost_usd", "memory_gb", "finishes_at"):
        assert probed["about"][name]["origin"] == "measured"
    assert probed["probe"]["load"] == 0.5
    assert probed["autotune"] is None


def test_the_fit_table_shows_what_was_measured_on_this_device_and_estimates_for_others(probed):
    rows = {row["id"]: row["methods"]["lora"] for row in probed["fit"]}
    assert rows["a100-80-sxm"]["origin"] == "measured"
    assert rows["a100-80-sxm"]["train_hours"] == probed["train_hours"]
    assert rows["h100-sxm"]["origin"] == "estimated"


def test_the_band_of_a_probe_is_15_percent_or_its_spread(tmp_path):
    rate = plan_of(tmp_path, {"probe": record(rates=[6_000.0, 12_000.0, 12_100.0])}, plan=A100)["rate"]
    assert (rate["low"], rate["high"]) == (6_000, pytest.approx(13_800))


def test_a_probe_of_another_device_says_nothing(tmp_path):
    assert plan_of(tmp_path, {"probe": record(gpu=None)}, plan=A100)["rate"]["origin"] == "estimated"
    assert plan_of(tmp_path, {"probe": record()}, plan={"gpu": "h100-sxm"})["rate"]["origin"] == "estimated"


@pytest.mark.parametrize(("day", "rate"), [("2026-11-18", 10_000), ("2026-11-20", 12_000)])
def test_what_was_measured_last_counts(tmp_path, day, rate):
    finished_run(tmp_path, plan_of(tmp_path, plan=A100), "first")  # on 19 November, at 10,000 tokens a second
    plan = plan_of(tmp_path, {"probe": record(measured_at=f"{day}T09:00:00+0000")}, plan=A100)
    assert plan["rate"]["tokens_per_second"] == pytest.approx(rate, rel=1e-5)


def test_a_probe_that_was_made_stays_in_use(tmp_path):
    own = tmp_path / "results" / "runs" / "own" / "lora-r16-00000000"
    own.mkdir(parents=True)
    (own / "probe.json").write_text(json.dumps(record()))
    assert plan_of(tmp_path, plan=A100)["rate"]["tokens_per_second"] == 12_000


def test_rows_at_a_time_keep_the_effective_batch_and_double():
    assert row_choices(4, 4) == [(1, 16), (2, 8), (4, 4), (8, 2), (16, 1)]
    assert row_choices(1, 1) == [(1, 1)]
    assert row_choices(3, 4) == [(1, 12), (2, 6), (3, 4), (6, 2), (12, 1)]
    assert all(rows * more == 96 for rows, more in row_choices(2, 48))
    assert worker_choices(0, 2) == [0]
    assert worker_choices(3, 8) == [0, 2, 3, 4]


def row(rate, **setting):
    values = {"micro_batch": 4, "accumulation": 4, "checkpoint_every": 0, "workers": 0} | setting
    return {"tokens_per_second": rate, "spread": 0.05, "keys": Candidate(**values).keys()}


def test_advice_names_what_changes_and_is_silent_within_the_noise():
    assert advice(row(100.0), row(104.0, workers=2)) is None
    given = advice(row(100.0), row(125.0, micro_batch=8, accumulation=2))
    assert given["changes"] == {"train.per_device_train_batch_size": 8, "train.gradient_accumulation_steps": 2}
    assert (given["speed_up"], given["time_reduction"]) == (pytest.approx(1.25), pytest.approx(0.2))


class Fake:
    """A device: the rate grows with the micro-batch, and memory with both."""

    def __init__(self, breaks_at=99):
        self.breaks_at, self.tried = breaks_at, []

    def measure(self, candidate):
        self.tried.append(candidate)
        if candidate.micro_batch >= self.breaks_at and not candidate.checkpoint_every:
            raise MemoryExhaustedError("out of memory: the run needs more.")
        rate = 100.0 * candidate.micro_batch**0.5 * (0.7 if candidate.checkpoint_every else 1) + candidate.workers
        return type("Found", (), {"tokens_per_second": rate, "spread": 0.01, "peak_memory_bytes": 1_000_000_000})()

    def needs(self, candidate):
        return candidate.micro_batch * (1.0 if candidate.checkpoint_every else 2.0)


def test_what_cannot_fit_is_not_tried_and_running_out_of_memory_is_a_result():
    from snaketune.train.probe.autotune import search_candidates

    device = Fake(breaks_at=8)
    rows = search_candidates(Candidate(4, 4, 0, 0), device.measure, device.needs, 17.0, cores=8, is_cpu=False)
    verdicts = {
        (row["setting"]["micro_batch"], row["setting"]["checkpoint_every"], row["setting"]["workers"]): row["verdict"]
        for row in rows
    }
    assert rows[0]["setting"] == {"micro_batch": 4, "accumulation": 4, "checkpoint_every": 0, "workers": 0}
    assert verdicts[8, 0, 0] == "ran out of memory"
    assert verdicts[8, 2, 0] == "measured"
    assert verdicts[16, 0, 0] == "predicted not to fit"
    assert not any(one.micro_batch == 16 and one.checkpoint_every == 0 for one in device.tried)
    assert (4, 2, 0) not in verdicts  # more recomputation at as many rows is slower
    assert {row["setting"]["workers"] for row in rows} == {0, 2, 4}
    assert all(row["setting"]["micro_batch"] * row["setting"]["accumulation"] == 16 for row in rows)


def test_steps_in_the_backward_pass_keep_their_rows_at_a_time():
    from snaketune.train.probe.autotune import search_candidates

    device = Fake()
    search_candidates(Candidate(4, 1, 0, 0), device.measure, device.needs, 99.0, cores=8, is_cpu=False, splits=False)
    assert {(each.micro_batch, each.accumulation) for each in device.tried} == {(4, 1)}


def test_other_errors_of_a_candidate_are_not_swallowed():
    from snaketune.train.probe.autotune import search_candidates

    def diverge(candidate):
        raise TrainingError("the loss is not finite.")

    with pytest.raises(TrainingError, match="not finite"):
        search_candidates(Candidate(1, 1, 0, 0), diverge, Fake().needs, 99.0, cores=2, is_cpu=True)


def test_a_probe_and_its_advice_are_said_in_a_sentence_each(tmp_path):
    tuned = {
        "candidates": [row(100.0) | {"verdict": "measured"}, row(130.0, workers=2) | {"verdict": "measured"}],
        "advice": {"changes": {"train.dataloader_num_workers": 2}, "speed_up": 1.3, "time_reduction": 0.23},
    }
    found = record(autotune=tuned)
    lines = describe_probe(found)
    assert lines[0].startswith("Probe: 12,000 tokens/s (measured, median of 3, spread 12%)")
    assert "1.30 times as fast with train.dataloader_num_workers: 2" in lines[1]
    plan = plan_of(tmp_path, {"probe": found}, plan=A100)
    assert lines[1] in describe_plan(plan, "run")
    tuned["advice"] = None
    assert "keep the settings" in describe_probe(found)[1]


def test_a_probe_is_dated(probed):
    assert datetime.fromisoformat(probed["probe"]["measured_at"]).day == 20


def test_a_run_of_another_kind_still_says_what_the_device_reaches(tmp_path):
    finished_run(tmp_path, plan_of(tmp_path), "first", gpu=None)  # on this CPU, a micro-batch of four
    changed = {"per_device_train_batch_size": 2}
    plan = plan_of(tmp_path, train=changed)
    assert (plan["rate"]["origin"], plan["about"]["train_hours"]["origin"]) == ("estimated", "estimated")
    assert plan["rate"]["tokens_per_second"] == pytest.approx(10_000, rel=1e-4)
    assert plan["rate"]["low"] == pytest.approx(6_000, rel=1e-4)
    assert "reached by first/lora-r16-11111111" in plan["rate"]["source"]
    assert plan_of(tmp_path, train=changed, adapter={"type": "none"})["rate"]["origin"] == "unknown"
    smaller = plan_of(tmp_path, {"model": {**MODEL, "parameters": 1_000_000}}, train=changed)
    assert smaller["rate"]["origin"] == "unknown"


def test_a_probe_on_a_busy_machine_is_said_to_be_noisy(tmp_path, probed):
    plan = plan_of(tmp_path, {"probe": record(spread=0.31)}, plan=A100)
    assert any("differ by 31%" in note for note in plan["notes"])
    assert not any("differ by" in note for note in probed["notes"])
