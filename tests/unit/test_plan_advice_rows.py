"""What a plan says beside training: presets, what comes afterwards, answers, the host's memory, and the questions."""

from types import SimpleNamespace

import pytest
from plan_case import PACK, inputs, plan_of, saved
from plan_models import SMALL_MODELS

from snaketune.plan.advice.after_training import answering_of, host_memory
from snaketune.plan.advice.preset_files import load_presets, presets_digest
from snaketune.plan.planning import make_plan
from snaketune.report.plan.plan_choices import flow, presets
from snaketune.report.plan.plan_figures import afterwards, plan_figures

A100 = {"gpu": "a100-80-sxm"}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    given = inputs(tmp_path_factory.mktemp("beside"), plan=A100)
    given.pack["splits"]["train"]["trainable_tokens"] = 500_000
    try:
        return make_plan(given)
    finally:
        del PACK["splits"]["train"]["trainable_tokens"]


def test_every_general_preset_is_a_row_against_the_run(plan):
    rows = {row["preset"]: row for row in plan["presets"]}
    assert set(rows) == set(load_presets()) and {"baseline", "fast", "low_memory"} <= set(rows)
    assert not {"quickstart", "fsdp_2xh100", "original_34b"} & set(rows)
    assert rows["fast"]["time_ratio"] == pytest.approx(1) and rows["fast"]["memory_gb"] == plan["memory_gb"]
    assert rows["low_memory"]["memory_gb"] < plan["memory_gb"] / 3 and rows["low_memory"]["time_ratio"] > 1.7
    assert rows["baseline"]["train_hours"] is None, "no peak of float32 is in the catalogue"
    # Recomputing every layer is about half again as much for LoRA.
    assert 1.3 < rows["optimized"]["train_hours"] / plan["train_hours"] < 1.6
    shown = presets(plan)
    assert shown[0]["name"] == "this run" and shown[0]["ratio"] == "the same"


def test_padding_and_epochs_of_a_preset_count(plan):
    rows = {row["preset"]: row for row in plan["presets"]}
    places = 5000 * 1024 / (1760 * 1024)  # documents alone in their rows against packed ones
    assert rows["phase1c_before"]["time_ratio"] == pytest.approx(3 * places, rel=0.02)


def test_an_edited_preset_plans_again_and_a_comment_does_not(tmp_path):
    def digest(text):
        load_presets.cache_clear()
        presets_digest.cache_clear()
        (tmp_path / "one.yaml").write_text(text)
        return presets_digest(tmp_path)

    one = digest("train: {num_train_epochs: 1}")
    assert digest("# why\ntrain: {num_train_epochs: 1}") == one != digest("train: {num_train_epochs: 2}")
    load_presets.cache_clear()
    presets_digest.cache_clear()


def test_what_comes_after_training_has_its_time(plan):
    rows = {what: seconds for what, seconds, _ in afterwards(plan)}
    assert set(rows) == {"Evaluating 3 models", "Merging and saving", "Uploading 13.5 GB at 100 Mbit/s"}
    assert rows["Uploading 13.5 GB at 100 Mbit/s"] == "18.0 min"
    assert rows["Evaluating 3 models"] != "unknown"


def test_a_thousand_answers_read_every_weight_for_every_token(plan):
    answers = plan["answers"]
    rate = 2039 * 0.6 / (6_738_415_616 * 2 / 1e9)
    assert answers["tokens_per_answer"] == 100
    assert answers["seconds"] == pytest.approx(1000 * 100 / rate, rel=1e-3)
    assert answers["origin"] == "estimated"
    assert any(
        figure.label == "1,000 answers of the tuned model" and "$" in figure.value for figure in plan_figures(plan)
    )


def test_a_measured_rate_of_answers_comes_before_an_estimate():
    work = SimpleNamespace(parameters=1_000_000, setting=SimpleNamespace(quantization="none"))
    target = SimpleNamespace(hardware=SimpleNamespace(bandwidth=1000.0))
    timings = [{"tokens_per_second": 10.0}, {"tokens_per_second": 20.0}]
    found = answering_of(work, target, {"splits": {"train": {"trainable_tokens": 60, "documents": 3}}}, timings)
    assert (found.tokens, found.tokens_per_second, found.origin) == (20, 20.0, "measured")


def test_the_host_needs_the_memory_of_a_training_on_its_cpu():
    model = {"files": {"model/a.safetensors": {"bytes": 5_000_000_000}, "model/config.json": {"bytes": 1}}}
    cpu, gpu = (SimpleNamespace(is_cpu=one, is_here=True) for one in (True, False))
    assert host_memory(SimpleNamespace(parameters=1), cpu, 3.0, model, 2, 16.0)["gb"] == pytest.approx(3.6)
    assert host_memory(SimpleNamespace(parameters=1), gpu, 30.0, model, 2, 16.0)["gb"] == pytest.approx(2.0 + 5.0 + 0.6)


def test_the_questions_end_in_commands_and_the_first_is_whether_it_fits(plan):
    asked = flow(plan)
    assert all(one.command.startswith("snakemake --cores all train --config ") for one in asked)
    assert [one.question for one in asked if one.is_answered] == ["Is it the first training on these data?"]
    changes = {"model.quantization": "8bit", "train.gradient_checkpointing": True}
    first = flow(plan | {"remedy": {"changes": changes, "needs_gb": 20.0}})[0]
    assert first.is_answered
    assert first.command.endswith("--config 'model={quantization: 8bit}' 'train={gradient_checkpointing: true}'")


def test_no_preset_quantises_weights_that_are_trained(tmp_path):
    small = {"model_folder": saved(SMALL_MODELS["llama"])}
    rows = {row["preset"]: row for row in plan_of(tmp_path, small, plan=A100, adapter={"type": "none"})["presets"]}
    assert rows["low_memory"]["time_ratio"] < 1.6, "recomputation alone; a quantised base would take 1.75 times as long"
