"""The keys of the best checkpoint and the early stop: what they change, and what is refused."""

import pytest

from snaketune.config.consistency import check_run
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.workflow.stages import slice_of

FILE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}}
BEST = {"eval_steps": 10, "load_best_model_at_end": True}


def run(**sections):
    return resolve_runs(Layer("c", FILE), sections, "nowhere")[0]


def test_unused_keys_are_in_no_identity():
    untouched = slice_of(run().config, "train_model")
    given = {"metric_for_best_model": "eval_loss", "greater_is_better": False, "early_stopping_threshold": 0.1}
    assert slice_of(run(train=given).config, "train_model") == untouched
    assert not {key for key in untouched["train"] if "best" in key or "early" in key}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"load_best_model_at_end": True}, "load_best_model_at_end is true and train.eval_steps is 0"),
        ({"early_stopping_patience": 2}, "early_stopping_patience is 2 and train.eval_steps is 0"),
        (
            BEST | {"metric_for_best_model": "accuracy"},
            "which train.method: sft does not measure during training: use loss",
        ),
        (BEST | {"method": "dpo", "metric_for_best_model": "eval_bleu"}, "use loss or preference_accuracy or"),
    ],
)
def test_what_is_never_evaluated_is_refused(keys, words):
    with pytest.raises(ConfigError, match=words):
        check_run(run(train=keys))


def test_every_weight_of_a_sharded_training_is_refused():
    sections = {"train": BEST | {"strategy": "fsdp"}, "adapter": {"type": "none"}, "plan": {"num_gpus": 2}}
    with pytest.raises(ConfigError, match="checkpoints are sharded over several processes"):
        check_run(run(**sections))


@pytest.mark.parametrize("metric", ["loss", "eval_loss", "reward_margin", "eval_preference_accuracy"])
def test_what_training_measures_is_allowed(metric):
    check_run(run(train=BEST | {"method": "dpo", "metric_for_best_model": metric}))
