"""The best checkpoint and the early stop: Hugging Face's meaning, and the same bytes whenever a training is killed."""

from types import SimpleNamespace

import pytest
from tiny_training import SETTINGS, break_off, configuration, digest, lines
from transformers import EarlyStoppingCallback, Trainer, TrainerControl, TrainerState

from snaketune.core.errors import TrainingError
from snaketune.train.checkpoints.best_checkpoint import BestCheckpoint
from snaketune.train.checkpoints.checkpoints import checkpoint_steps
from snaketune.train.monitoring.metrics import read_metrics
from snaketune.train.run import train
from snaketune.train.trainer import PackedTrainer

# Random documents: the held-out loss falls for a few steps and rises from then on.
KEYS = {"eval_steps": 2, "max_steps": 16, "learning_rate": 2e-2}
BEST = {**KEYS, "load_best_model_at_end": True}
STOPPING = {**BEST, "early_stopping_patience": 2}


def measured(work):
    return {line["step"]: line["eval_loss"] for line in read_metrics(work / "metrics.jsonl") if "eval_loss" in line}


@pytest.fixture(scope="module")
def undisturbed(base, rows, tmp_path_factory):
    """Finished trainings, by what they were asked for: the digest, the facts and the metrics."""
    found = {}
    for name, keys in (("best", BEST), ("stopping", STOPPING)):
        work = tmp_path_factory.mktemp(name)
        finished = train(base, *rows, configuration(**keys), SETTINGS | {"save_total_limit": 1}, work)
        found[name] = (finished, digest(finished), lines(work), work)
    return found


def test_the_weights_of_the_best_evaluation_are_kept_however_few_checkpoints_are(undisturbed):
    finished, _, _, work = undisturbed["best"]
    values = measured(work)
    best = min(values, key=values.get)
    assert max(values) == 16 and best < 12, values
    assert finished.best["best"] == {
        "metric": "eval_loss",
        "value": values[best],
        "step": best,
        "kept_step": best,
        "stopped_early": False,
    }
    assert (finished.checkpoint.name, finished.steps) == (f"checkpoint-{best}", 16)
    assert checkpoint_steps(work) == [16, best]


def test_patience_ends_the_training_and_the_best_is_kept(undisturbed):
    (whole, weights, _, _), (finished, stopped, _, work) = undisturbed["best"], undisturbed["stopping"]
    best = finished.best["best"]
    assert (best["stopped_early"], finished.steps) == (True, best["step"] + 2 * 2)
    assert finished.steps < whole.steps
    assert max(measured(work)) == finished.steps
    assert stopped == weights


@pytest.mark.parametrize("at", [3, 5, 7, 9])
@pytest.mark.parametrize("name", ["best", "stopping"])
def test_a_killed_training_keeps_the_same_checkpoint(base, rows, tmp_path, undisturbed, name, at):
    finished, weights, metrics, _ = undisturbed[name]
    if at >= finished.steps:
        pytest.skip("it has ended before")
    cfg, settings = configuration(**(BEST if name == "best" else STOPPING)), {"save_steps": 3, "save_total_limit": 1}
    break_off(base, rows, cfg, tmp_path, at=at, **settings)
    resumed = train(base, *rows, cfg, SETTINGS | settings, tmp_path)
    assert (digest(resumed), resumed.best, resumed.steps) == (weights, finished.best, finished.steps)
    assert lines(tmp_path) == metrics
    again = train(base, *rows, cfg, SETTINGS | settings, tmp_path)
    assert (digest(again), again.best, again.tokens_this_time) == (weights, finished.best, 0)


def test_an_evaluation_that_was_put_off_can_be_the_end(base, rows, tmp_path, undisturbed, monkeypatch):
    """A training told to stop at its last evaluation saves first and judges when it goes on: no step more."""
    finished, weights, metrics, _ = undisturbed["stopping"]
    with monkeypatch.context() as patch:
        patch.setattr(PackedTrainer, "_is_interrupted", lambda self: self.state.global_step == finished.steps)
        with pytest.raises(Exception, match="training ended at step"):
            train(base, *rows, configuration(**STOPPING), SETTINGS, tmp_path)
    resumed = train(base, *rows, configuration(**STOPPING), SETTINGS, tmp_path)
    assert resumed.resumed_from == finished.steps
    assert (digest(resumed), resumed.best, resumed.steps) == (weights, finished.best, finished.steps)
    assert lines(tmp_path) == metrics


def test_without_held_out_rows_it_is_refused(base, rows, tmp_path):
    with pytest.raises(TrainingError, match=r"no record is held out.*raise split\.test_size"):
        train(base, rows[0], [], configuration(**BEST), SETTINGS, tmp_path)


CASES = [("loss", None), ("eval_loss", None), ("eval_margin", None), ("loss", True)]
VALUES = [3.0, 2.0, 2.0, 1.95, 1.96, 1.5, 1.5, 1.6, 1.49, 1.48, 1.6]


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1])
@pytest.mark.parametrize(("metric", "greater"), CASES)
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_it_judges_as_hugging_face_does(threshold, metric, greater, patience):
    """Against transformers' own callback and trainer, evaluation by evaluation."""
    name = metric if metric.startswith("eval_") else f"eval_{metric}"
    is_greater = greater if greater is not None else not metric.endswith("loss")
    values = VALUES if not is_greater else [-value for value in VALUES]
    theirs, ours = (
        EarlyStoppingCallback(patience, threshold),
        BestCheckpoint(
            {
                "load_best_model_at_end": True,
                "metric_for_best_model": metric,
                "greater_is_better": greater,
                "early_stopping_patience": patience,
                "early_stopping_threshold": threshold,
            }
        ),
    )
    args = SimpleNamespace(metric_for_best_model=metric, greater_is_better=is_greater, save_strategy="steps")
    state, control, own = TrainerState(), TrainerControl(), TrainerControl()
    for step, value in enumerate(values, 1):
        state.global_step = step
        theirs.on_evaluate(args, state, control, {name: value})
        Trainer._determine_best_metric(SimpleNamespace(args=args, state=state), {name: value}, None)
        ours.on_evaluate(args, state, own, {name: value})
        assert (ours.found.metric, ours.found.step) == (state.best_metric, state.best_global_step)
        assert (ours.found.misses, own.should_training_stop) == (
            theirs.early_stopping_patience_counter,
            control.should_training_stop,
        )
        if control.should_training_stop:
            break
