"""The check of a card runs in its reduced form on a CPU, says what needs a card, and fails where something is wrong."""

import json

import pytest

from snaketune.plan.advice.preset_files import read_presets
from snaketune.train.device import prepare_arithmetic
from snaketune.train.fitness import examining
from snaketune.train.fitness.bench import REDUCED as REDUCED_SIZE
from snaketune.train.fitness.checks import CHECKS
from snaketune.train.fitness.examining import examine, fitness_verdict, render_findings
from snaketune.train.fitness.trials import NotHereError, TrialResult, cards_of, packs_documents, sections_of

# One of each kind: the others differ in keys that other tests train with.
REDUCED = (
    "card",
    "attention",
    "packed = unpacked",
    "chunked = plain loss",
    "resumed = uninterrupted",
    "no waits",
    "plan = memory",
    "method: LoRA",
    "method: all weights",
    "method: LoRA, float16",
    "method: all weights, steps in backward",
    "method: DPO",
    "throughput",
    "preset: fast",
    "preset: phase1c_before",
    "preset: optimized",
    "preset: phase1c_after",
)


def test_every_kind_of_check_runs_on_a_cpu_and_the_rest_says_what_it_needs():
    found = examine(checks={name: CHECKS[name] for name in REDUCED}, seconds=float("inf"))
    verdicts = {each["name"]: each["verdict"] for each in found["findings"]}
    needing = {"no waits", "plan = memory", "throughput", "method: LoRA, float16", "preset: optimized"}
    needing |= {"preset: phase1c_after"}
    assert {name for name, each in verdicts.items() if each == "not here"} == needing, found["findings"]
    assert {each for name, each in verdicts.items() if name not in needing} == {"passed"}, found["findings"]
    assert not found["is_fit"] and found["device"] == "cpu"
    assert "6 of them need a GPU or a package" in fitness_verdict(found)
    page = render_findings(found)
    assert all(name in page for name in ("packed = unpacked", "needs a GPU"))
    json.dumps(found)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(examining.Bench, "build", lambda *arguments: None)


def wrong(bench):
    raise RuntimeError("CUDA error: <an illegal memory access>")


def test_whatever_goes_wrong_is_a_finding_and_the_card_is_not_fit(bench):
    found = examine(checks={"one": wrong, "two": lambda bench: TrialResult("fine")})
    assert [each["verdict"] for each in found["findings"]] == ["failed", "passed"]
    assert fitness_verdict(found) == "Not fit: one failed."
    assert "RuntimeError: CUDA error: &lt;an illegal" in render_findings(found)


@pytest.mark.parametrize("card", ["4090"], indirect=True)
def test_a_card_on_which_all_passes_is_fit_and_one_that_is_too_slow_is_not(bench, card):
    fine = {"one": lambda bench: TrialResult("fine")}
    found = examine(checks=fine)
    assert found["is_fit"] and fitness_verdict(found).startswith("Fit: every check")
    found = examine(checks=fine, seconds=-1.0)
    assert not found["is_fit"] and "not reached" in found["findings"][0]["said"]


def test_each_preset_is_tried_with_its_own_keys():
    presets = read_presets()
    assert {f"preset: {name}" for name in presets} - CHECKS.keys() == {"preset: quickstart", "preset: smollm2"}
    low = sections_of(presets["low_memory"], 16)
    assert low["model"] == {"quantization": "4bit"} and low["adapter"]["dtype"] == "bfloat16"
    assert low["train"]["gradient_checkpointing"] is True and low["train"]["gradient_accumulation_steps"] == 2
    assert sections_of(presets["original_34b"], 16)["adapter"] == {"r": 16, "lora_alpha": 32}
    assert "learning_rate" not in sections_of(presets["aggressive"], 16)["train"]
    assert not packs_documents(presets["baseline"]) and packs_documents(presets["fast"])
    assert [cards_of(presets[name]) for name in ("fast", "fsdp_2xh100", "zero3_4xa100")] == [1, 2, 4]


@pytest.mark.parametrize("card", ["T4"], indirect=True)
@pytest.mark.parametrize(
    "name", ["preset: phase1c_after", "preset: low_memory", "method: all weights, steps in backward"]
)
def test_what_an_old_card_lacks_is_no_fault_of_it(card, tmp_path, name):
    bench = examining.Bench.build(prepare_arithmetic(1), REDUCED_SIZE, tmp_path)
    with pytest.raises(NotHereError, match="needs a GPU with"):
        CHECKS[name](bench)
