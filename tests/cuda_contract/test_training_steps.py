"""Every method trains on every kind of card: dtypes, copies, waits, and what reaches the kernels."""

import functools

import pytest
import torch
from paper_cards import Waits
from paper_streams import Streams
from tiny_training import SETTINGS, configuration

from snaketune.core.errors import ConfigError
from snaketune.train import engine as engine_module
from snaketune.train.device import prepare_arithmetic
from snaketune.train.kernels.offloading import Lane, Shelf, offload_activations
from snaketune.train.run import prepare_run
from snaketune.train.safety import FiniteGuard
from snaketune.train.signals import StopRequest
from snaketune.train.trainer import PackedTrainer


def method(adapter=None, model=None, **train):
    cfg = configuration(max_steps=2, torch_compile=False, **train)
    cfg["adapter"] |= adapter or {}
    cfg["model"] |= model or {}
    return cfg


def prepared(base, rows, cfg, work):
    return prepare_run(base, *rows, cfg, SETTINGS, work, prepare_arithmetic(1), StopRequest())


METHODS = {
    "lora": method(),
    "full": method({"type": "none"}),
    "float32 base": method(model={"dtype": "float32"}),
    "dora": method({"use_dora": True}),
    "bfloat16 adapter": method({"dtype": "bfloat16"}),
    "recomputed": method(gradient_checkpointing=True),
    "whole logits": method(chunked_loss=False),
    "float16": method(fp16=True),
    "in backward": method({"type": "none"}, optimizer_in_backward=True, max_grad_norm=0.0),
}


@pytest.mark.parametrize("card", ["4090", "H100", "B200", "MIG", "3060"], indirect=True)
def test_the_kernel_for_packed_rows_gets_sixteen_bits(card, base, rows, tmp_path):
    run = prepared(base, rows, METHODS["lora"], tmp_path)
    run.trainer.train()
    assert run.engine.attention == "varlen_packed"
    assert {dtype for dtype, _, _ in card.flash.calls} == {torch.bfloat16}


@pytest.mark.parametrize("card", ["4090"], indirect=True)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_a_card(card, base, rows, tmp_path, name):
    run = prepared(base, rows, METHODS[name], tmp_path)
    run.trainer.train()
    assert run.trainer.state.global_step == 2
    half = torch.float16 if name == "float16" else torch.bfloat16
    assert card.flash.calls and {dtype for dtype, _, _ in card.flash.calls} == {half}
    assert run.engine.chunked_loss == (name != "whole logits")


@pytest.mark.parametrize("card", ["T4"], indirect=True)
def test_a_card_without_bfloat16_trains_in_scaled_float16(card, base, rows, tmp_path):
    run = prepared(base, rows, METHODS["lora"], tmp_path)
    assert run.trainer.args.fp16 and not run.trainer.args.bf16
    assert next(run.trainer.model.get_base_model().parameters()).dtype == torch.float16
    run.trainer.train()
    assert run.trainer.accelerator.scaler is not None
    assert not card.flash.calls and run.engine.attention == "sdpa"  # the kernel needs Ampere


@pytest.mark.parametrize("card", ["T4"], indirect=True)
@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"dtype": "bfloat16"}}, "model.dtype: bfloat16 needs an Ampere or newer GPU and this is Tesla T4"),
        ({"adapter": {"dtype": "bfloat16"}}, "adapter.dtype: bfloat16 cannot be trained in float16 mixed precision"),
        ({"adapter": {"type": "none"}, "model": {"dtype": "float16"}}, "model.dtype: float16 cannot be trained in"),
        ({"bf16": True}, "train.bf16: true needs a GPU with bfloat16"),
        (
            {"optimizer_in_backward": True},
            "train.optimizer_in_backward: true needs a GPU with bfloat16 and this is Tesla",
        ),
        ({"tf32": True}, "train.tf32: true needs an Ampere or newer GPU"),
    ],
)
def test_a_number_format_that_an_old_card_lacks_is_a_sentence(card, base, rows, tmp_path, sections, words):
    with pytest.raises(ConfigError, match=words):
        prepared(base, rows, method(**sections), tmp_path)


@pytest.mark.parametrize("card", ["two"], indirect=True)
def test_one_process_trains_on_one_of_two_cards(card, base, rows, tmp_path):
    run = prepared(base, rows, METHODS["lora"], tmp_path)
    assert run.trainer.args.n_gpu == 1
    assert run.trainer.args.train_batch_size == 2
    run.trainer.train()
    assert not isinstance(run.trainer.model_wrapped, torch.nn.DataParallel)


@pytest.mark.parametrize("card", ["4090"], indirect=True)
@pytest.mark.parametrize("name", ["lora", "full", "recomputed", "in backward"])
def test_no_step_makes_the_host_wait_for_the_card(card, base, rows, tmp_path, monkeypatch, name):
    """Losses are looked at when they have arrived, lines wait once for what they show; nothing else waits."""
    cfg = METHODS[name] | {"train": METHODS[name]["train"] | {"max_steps": 6, "logging_steps": 6}}
    run, waits = prepared(base, rows, cfg, tmp_path), Waits()
    run.trainer.guard._send = lambda values: (values.clone(), lambda: None)
    _pause(monkeypatch, FiniteGuard, "_judge", waits)
    for part in ("log", "_save_checkpoint", "get_batch_samples", "_maybe_log_save_evaluate"):
        _pause(monkeypatch, PackedTrainer, part, waits)
    step, counted = PackedTrainer.training_step, []

    def training_step(self, *args, **kwargs):
        before = waits.total(), card.blocking.total()
        loss = step(self, *args, **kwargs)
        counted.append((waits.total() - before[0], card.blocking.total() - before[1]))
        return loss

    monkeypatch.setattr(PackedTrainer, "training_step", training_step)
    with waits:
        run.trainer.train()
    assert counted == [(0, 0)] * 6, (waits.found, card.blocking)
    assert card.copies["to"] >= 6 * 4


HOOKS = {"keep": Shelf.keep, "take": Shelf.take}


def _within(card, streams, hook):
    """Let a hook run under the modes, which torch takes away while an operation runs."""

    def wrapped(self, kept):
        with card, streams:
            return hook(self, kept)

    return wrapped


def _pause(monkeypatch, kind, name, waits):
    original = getattr(kind, name)

    def paused(self, *args, **kwargs):
        with waits.paused():
            return original(self, *args, **kwargs)

    monkeypatch.setattr(kind, name, paused)


@pytest.mark.parametrize("card", ["4090"], indirect=True)
@pytest.mark.parametrize("recomputes", [False, True])
def test_offloaded_activations_arrive_before_they_are_used(card, base, rows, tmp_path, monkeypatch, recomputes):
    """Streams order everything; the host waits for nothing."""
    weights = []
    monkeypatch.setattr(Lane, "takes", lambda self, tensor: True)
    monkeypatch.setattr(engine_module, "offload_activations", functools.partial(offload_activations, smallest=1))
    for offloads in (False, True):
        cfg = method(activation_offloading=offloads, gradient_checkpointing=recomputes)
        with Streams(monkeypatch) as streams:
            for hook in ("keep", "take"):
                monkeypatch.setattr(Shelf, hook, _within(card, streams, HOOKS[hook]))
            run = prepared(base, rows, cfg, tmp_path / str(offloads))
            run.trainer.train()
        weights.append([weight.detach().clone() for weight in run.trainer.model.parameters() if weight.requires_grad])
        assert (streams.copies > 0) == offloads
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
