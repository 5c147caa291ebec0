"""Activations in RAM between forward and backward: the same gradients, and nothing used before it has arrived."""

import gc
import weakref

import pytest
import torch
from tiny_training import SETTINGS, configuration

from snaketune.train.device import prepare_arithmetic
from snaketune.train.kernels.offloading import Shelf, offload_activations
from snaketune.train.run import build_trainer


class Late:
    """A lane whose copies are made when somebody waits for them, and no earlier: as late as a stream may be.

    Attributes:
        most: copies that had not been waited for, at most.
    """

    def __init__(self):
        self.pending, self.most, self.sent, self.waited = {}, 0, 0, -1

    def takes(self, tensor):
        return True

    def to_host(self, tensor):
        self.sent += 1
        source = weakref.ref(tensor)  # whoever lets it go before the copy is made has lost it
        return self._later(torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor.clone(), source)

    def to_device(self, host, device):
        return self._later(torch.full_like(host, torch.nan) if host.is_floating_point() else host.clone(), lambda: host)

    def wait(self, event):
        for number in range(self.waited + 1, event + 1):  # a stream does one after the other
            target, source = self.pending.pop(number)
            target.copy_(source())
        self.waited = max(self.waited, event)

    def _later(self, target, source):
        number = self.waited + len(self.pending) + 1
        self.pending[number] = target.detach(), source
        self.most = max(self.most, len(self.pending))
        return target.detach(), number


def gradients(base, rows, lane, tmp_path, **keys):
    cfg = configuration(max_steps=1, **keys)
    cfg["adapter"]["type"] = "none"
    trainer = build_trainer(base, *rows, cfg, SETTINGS, tmp_path, prepare_arithmetic(1))
    if lane:
        offload_activations(trainer.model, lane, smallest=1)
    trainer.create_optimizer_and_scheduler(1)
    batch = next(iter(trainer.get_train_dataloader()))
    for _ in range(2):  # a second pass starts afresh
        trainer.model.zero_grad()
        batch_now = {name: part for name, part in batch.items() if name != "facts"}
        if keys.get("gradient_checkpointing"):
            trainer.model.activation_checkpointing_enable({"use_reentrant": False})
        trainer.compute_loss(trainer.model.train(), batch_now).backward()
    return {name: weight.grad for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize("recomputes", [False, True])
def test_gradients_are_the_same_bits(base, rows, tmp_path, recomputes):
    lane = Late()
    keys = {"gradient_checkpointing": recomputes}
    expected, found = (gradients(base, rows, each, tmp_path, **keys) for each in (None, lane))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert lane.sent >= 2 * (2 if recomputes else 20) and not lane.pending


def shelf_of(lane, limit):
    return Shelf(lane, frozenset(), limit, smallest=1)


def test_what_several_operations_keep_goes_away_once():
    lane = Late()
    shelf, states = shelf_of(lane, 1 << 20), torch.randn(8, 8)
    first, again, turned = shelf.keep(states), shelf.keep(states), shelf.keep(states.t())
    assert lane.sent == 2 and turned[0] is not first[0] is again[0]
    assert torch.equal(shelf.take(turned), states.t()) and shelf.take(turned).stride() == states.t().stride()
    assert torch.equal(shelf.take(again), states) and torch.equal(shelf.take(first), states)
    states += 1  # the same memory, other values
    assert shelf.keep(states)[0] is not first[0]


def test_a_new_tensor_in_the_place_of_a_dead_one_is_another():
    lane = Late()
    shelf = shelf_of(lane, 1)
    for value in range(20):
        kept = shelf.keep(torch.full((64, 64), float(value)))
        assert lane.sent == value + 1
    assert torch.equal(shelf.take(kept), torch.full((64, 64), 19.0))


def test_little_is_on_its_way_at_a_time_and_comes_before_it_is_wanted():
    lane = Late()
    shelf = shelf_of(lane, 3 * 256)
    kept = [shelf.keep(torch.full((8, 8), float(value))) for value in range(12)]
    assert lane.most <= 4
    for value in reversed(range(12)):
        assert torch.equal(shelf.take(kept[value]), torch.full((8, 8), float(value)))
        ahead = [each[0].number for each in kept if each[0].back is not None]
        assert all(number < value for number in ahead) and len(ahead) <= 4
        assert not value or ahead, "the next is called before it is wanted"


def test_weights_gaps_and_small_tensors_stay():
    lane, weight = Late(), torch.randn(4, 4)
    shelf = Shelf(lane, frozenset([weight.untyped_storage()._cdata]), 1 << 20, smallest=32)
    for tensor in (weight.t(), torch.randn(4, 8)[:, ::2], torch.randn(4).expand(4, 4), torch.randn(2)):
        assert shelf.keep(tensor) is tensor
    assert lane.sent == 0


def test_nothing_outlives_the_graph():
    lane = Late()
    shelf = shelf_of(lane, 1 << 20)
    gone = weakref.ref(shelf)
    gc.disable()
    try:
        with torch.autograd.graph.saved_tensors_hooks(shelf.keep, shelf.take):
            loss = (torch.randn(8, 8, requires_grad=True) ** 2).sum()
        del shelf
        assert gone() is not None
        loss.backward()
        del loss
        assert gone() is None
    finally:
        gc.enable()
