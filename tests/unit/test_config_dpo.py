"""The keys of `train.method: dpo`: what they change, and what is said about them."""

import pytest

from snaketune.config.consistency import check_run
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.train.preference.dpo import PreferenceLoss
from snaketune.workflow.stages import slice_of, stage_id

FILE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}}


def run(**sections):
    return resolve_runs(Layer("c", FILE), sections, "nowhere")[0]


def identity(**train):
    return stage_id(run(train=train).config, "train_model")


def test_the_keys_of_dpo_mean_nothing_for_sft():
    assert identity() == identity(dpo={"beta": 0.5, "loss_type": "ipo", "label_smoothing": 0.1})
    assert "dpo" not in slice_of(run().config, "train_model")["train"]


def test_every_key_of_dpo_trains_anew_and_prepares_no_data_anew():
    before = run(train={"method": "dpo"}).config
    for keys in ({"beta": 0.2}, {"loss_type": "ipo"}, {"label_smoothing": 0.1}):
        after = run(train={"method": "dpo", "dpo": keys}).config
        assert stage_id(before, "train_model") != stage_id(after, "train_model")
        assert stage_id(before, "pack_rows") == stage_id(after, "pack_rows")


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
def test_what_is_left_of_the_section_makes_the_loss(loss_type):
    cfg = slice_of(run(train={"method": "dpo", "dpo": {"loss_type": loss_type}}).config, "train_model")
    assert PreferenceLoss(**cfg["train"]["dpo"]) == PreferenceLoss(0.1, loss_type, 0.0)


def test_smoothing_is_for_sigmoid_alone():
    check_run(run(train={"method": "dpo", "dpo": {"label_smoothing": 0.1}}))
    with pytest.raises(ConfigError, match=r"label_smoothing is 0\.1, which ipo does not support: set it to 0"):
        check_run(run(train={"method": "dpo", "dpo": {"label_smoothing": 0.1, "loss_type": "ipo"}}))


@pytest.mark.parametrize("keys", [{"beta": 0}, {"label_smoothing": 0.5}, {"loss_type": "kto"}])
def test_values_that_cannot_be_meant_are_refused(keys):
    with pytest.raises(ConfigError, match=r"train\.dpo"):
        run(train={"method": "dpo", "dpo": keys})


def test_the_default_learning_rate_of_sft_is_noted():
    assert "5e-5 is usual" in run(train={"method": "dpo"}).notes[0]
    assert "5e-6 is usual" in run(train={"method": "dpo"}, adapter={"type": "none"}).notes[0]
    assert run(train={"method": "dpo", "learning_rate": 1e-4}).notes == run().notes == ()
