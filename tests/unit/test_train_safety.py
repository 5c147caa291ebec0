"""The watch over every step: what is seen when, and what a float16 scaler may do."""

import pytest
import torch
from safetensors.torch import save_file

from snaketune.core.errors import TrainingError
from snaketune.train.safety import FiniteGuard, LossWatch, require_finite_state, require_plain_names

NAN, INF = float("nan"), float("inf")


def step(guard, number, loss=1.0, norm=1.0, rows=(3, 5)):
    guard.add_loss(torch.tensor(loss), rows)
    guard.close_step(number, 1e-3, torch.tensor(norm))


@pytest.mark.parametrize(
    ("loss", "norm", "name"), [(NAN, 1.0, "loss"), (INF, 1.0, "loss"), (1.0, INF, "gradient norm")]
)
def test_on_a_cpu_the_step_itself_raises(loss, norm, name):
    guard = FiniteGuard()
    step(guard, 1)
    with pytest.raises(TrainingError, match=f"step 2: the {name} is .* at learning rate 0.001 in rows 3, 5 of"):
        step(guard, 2, loss, norm)


def test_one_bad_forward_pass_of_many_is_enough():
    guard = FiniteGuard()
    guard.add_loss(torch.tensor(NAN), [7])
    guard.add_loss(torch.tensor(1.0), [8])
    with pytest.raises(TrainingError, match="rows 7, 8"):
        guard.close_step(1, 1e-3, 1.0)


def test_on_a_gpu_the_next_step_raises_and_names_the_bad_one():
    waits = []
    guard = FiniteGuard(send=lambda values: (values.clone(), lambda: waits.append(1)))
    step(guard, 1)
    assert not waits
    step(guard, 2, loss=NAN, rows=[9])
    with pytest.raises(TrainingError, match=r"step 2: the loss is nan .* in row 9 of"):
        step(guard, 3)


def test_nothing_is_saved_or_logged_before_the_step_on_its_way_is_seen():
    guard = FiniteGuard(send=lambda values: (values.clone(), lambda: None))
    step(guard, 4, norm=INF)
    with pytest.raises(TrainingError, match="step 4: the gradient norm is inf"):
        guard.check_pending()


def test_a_scaler_may_skip_steps_but_not_forever():
    guard = FiniteGuard(patience=2)
    for number, norm in enumerate([INF, INF, 1.0, INF, INF], 1):
        step(guard, number, norm=norm)
    with pytest.raises(TrainingError, match="step 6"):
        step(guard, 6, norm=NAN)


def test_many_rows_are_counted_and_not_listed():
    guard = FiniteGuard()
    with pytest.raises(TrainingError, match="rows 0, 1, 2, 3, 4, 5, 6, 7 and 92 more of"):
        step(guard, 1, loss=NAN, rows=range(100))


def test_state_that_is_not_finite_is_told_apart():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    require_finite_state(1, [weight], optimizer)
    optimizer.state[weight]["exp_avg_sq"][1] = INF
    with pytest.raises(TrainingError, match="step 1: the optimizer's state is not finite"):
        require_finite_state(1, [weight], optimizer)


def test_a_loss_diverges_when_the_mean_of_five_lines_leaves_the_best_one():
    watch = LossWatch(1.0)
    for number, loss in enumerate([3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 5.0], 1):  # one bad line is not a trend
        watch.see(number, loss)
    with pytest.raises(TrainingError, match=r"step 8: the loss diverges.*\(1.800 at step 6\).*allows 1:"):
        watch.see(8, 6.0)


def test_a_restored_watch_goes_on_as_if_nothing_had_happened():
    losses = [3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 5.0]
    watch = LossWatch(1.0)
    watch.restore(enumerate(losses, 1))
    with pytest.raises(TrainingError, match="step 8"):
        watch.see(8, 6.0)


def test_without_a_limit_nothing_diverges():
    watch = LossWatch(None)
    for number, loss in enumerate([1.0] * 5 + [99.0] * 9):
        watch.see(number, loss)


def test_a_weight_under_its_name_in_a_compiled_model_never_passes(tmp_path):
    save_file({"layer.weight": torch.ones(2)}, tmp_path / "good.safetensors")
    require_plain_names(tmp_path)
    save_file({"_orig_mod.layer.weight": torch.ones(2)}, tmp_path / "wrong.safetensors")
    with pytest.raises(TrainingError, match=r"wrong.safetensors: _orig_mod.layer.weight is a weight name"):
        require_plain_names(tmp_path)
