"""Resuming: from every step to the same bytes, from the newest intact checkpoint, never from another run's."""

import pytest
from tiny_training import SETTINGS, break_off, configuration, digest, lines

from snaketune.core.errors import TrainingError
from snaketune.train.run import train


@pytest.fixture(scope="module")
def undisturbed(base, rows, tmp_path_factory):
    """The digest and the metrics of the default training without an interruption."""
    work = tmp_path_factory.mktemp("whole")
    return digest(train(base, *rows, configuration(), SETTINGS, work)), lines(work)


@pytest.mark.parametrize("keys", [{"gradient_accumulation_steps": 2}, {"gradient_checkpointing": True}])
def test_resumed_equals_uninterrupted(base, rows, tmp_path, keys):
    whole = train(base, *rows, configuration(**keys), SETTINGS, tmp_path / "whole")
    break_off(base, rows, configuration(**keys), tmp_path / "parts", at=7)
    resumed = train(base, *rows, configuration(**keys), SETTINGS, tmp_path / "parts")
    assert resumed.resumed_from == 4
    assert digest(resumed) == digest(whole)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


@pytest.mark.parametrize("save_steps", [1, 4, 7])
def test_a_checkpoint_in_the_middle_of_a_log_interval_loses_nothing(base, rows, tmp_path, save_steps):
    cfg = configuration(max_steps=20, logging_steps=5, eval_steps=6, gradient_accumulation_steps=2)
    whole = train(base, *rows, cfg, SETTINGS | {"save_steps": 100}, tmp_path / "whole")
    break_off(base, rows, cfg, tmp_path / "parts", at=13, save_steps=save_steps)
    resumed = train(base, *rows, cfg, SETTINGS | {"save_steps": save_steps}, tmp_path / "parts")
    assert resumed.resumed_from == 12 // save_steps * save_steps
    assert digest(resumed) == digest(whole)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "no manifest", "edited manifest"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(base, rows, tmp_path, damage, capsys, undisturbed):
    break_off(base, rows, configuration(), tmp_path / "parts", at=11)
    newest = tmp_path / "parts" / "checkpoint-8"
    victim = newest / ("checkpoint.json" if damage.endswith("manifest") else "optimizer.pt")
    if damage == "edited manifest":
        victim.write_bytes(victim.read_bytes().replace(b'"step": 8', b'"step": []'))
    elif damage in ("delete", "no manifest"):
        victim.unlink()
    else:
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 64
        victim.write_bytes(content if damage == "flip" else content[:100])
    resumed = train(base, *rows, configuration(), SETTINGS, tmp_path / "parts")
    assert resumed.resumed_from == 4
    assert "checkpoint-8 is damaged" in capsys.readouterr().out
    assert (digest(resumed), lines(tmp_path / "parts")) == undisturbed


def test_without_an_intact_checkpoint_it_trains_from_the_start(base, rows, tmp_path, capsys, undisturbed):
    break_off(base, rows, configuration(), tmp_path / "parts", at=11)
    checkpoints = sorted((tmp_path / "parts").glob("checkpoint-*"))
    assert [path.name for path in checkpoints] == ["checkpoint-4", "checkpoint-8"]
    for path in checkpoints:
        victim = path / "adapter_model.safetensors"
        victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    finished = train(base, *rows, configuration(), SETTINGS, tmp_path / "parts")
    assert not finished.resumed_from
    said = capsys.readouterr().out
    assert all(f"{path.name} is damaged" in said for path in checkpoints)
    assert (digest(finished), lines(tmp_path / "parts")) == undisturbed


def test_a_checkpoint_of_another_training_is_refused(base, rows, tmp_path):
    break_off(base, rows, configuration(), tmp_path / "one", at=7)
    (tmp_path / "one").rename(tmp_path / "two")
    with pytest.raises(TrainingError, match="checkpoint-4 belongs to training one, not to this one, two"):
        train(base, *rows, configuration(), SETTINGS, tmp_path / "two")


def test_a_finished_training_is_not_trained_again(base, rows, tmp_path, capsys):
    first = train(base, *rows, configuration(), SETTINGS, tmp_path)
    before = digest(first)
    again = train(base, *rows, configuration(), SETTINGS, tmp_path)
    assert (again.tokens_this_time, again.resumed_from, digest(again)) == (0, 12, before)
    assert "already complete" in capsys.readouterr().out


def test_the_save_interval_is_reported_with_its_cost_and_never_changes_the_result(base, rows, tmp_path, undisturbed):
    often = train(base, *rows, configuration(), SETTINGS | {"save_steps": 1}, tmp_path / "often")
    auto = train(base, *rows, configuration(), SETTINGS | {"save_steps": "auto"}, tmp_path / "auto")
    assert digest(often) == digest(auto) == undisturbed[0]
    facts = often.info["checkpoints"]
    assert facts["checkpoints"] == 12
    assert 0 < facts["seconds_per_checkpoint"] < facts["crash_loses_seconds"]
    assert 0 < facts["cost_percent"] < 100
    assert auto.info["checkpoints"]["checkpoints"] == 1
    assert set(often.info["seconds"]) >= {"data", "compute", "evaluation", "checkpoint"}


def test_an_evaluation_that_was_put_off_is_done_after_resuming(base, rows, tmp_path):
    cfg = configuration(eval_steps=4, logging_steps=3)
    whole = train(base, *rows, cfg, SETTINGS, tmp_path / "whole")
    with pytest.raises(TrainingError, match="the test came: step 4 of 12 is saved in"):
        stopped_while_evaluating(base, rows, cfg, tmp_path / "parts")
    assert not any("eval_loss" in line for line in lines(tmp_path / "parts"))
    resumed = train(base, *rows, cfg, SETTINGS, tmp_path / "parts")
    assert resumed.resumed_from == 4
    assert digest(resumed) == digest(whole)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def stopped_while_evaluating(base, rows, cfg, work):
    from snaketune.train.device import prepare_arithmetic
    from snaketune.train.run import prepare_run, require_completion
    from snaketune.train.signals import StopRequest

    stop = StopRequest()
    run = prepare_run(base, *rows, cfg, SETTINGS | {"save_steps": 100}, work, prepare_arithmetic(1), stop)
    compute = run.trainer.held_out_loss

    def interrupt():
        stop.reason = "the test came"
        return compute()

    run.trainer.held_out_loss = interrupt
    run.trainer.train()
    require_completion(run, work)
