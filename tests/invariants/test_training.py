"""Exactness of training: packed = unpacked, accumulated = one batch, resumed = uninterrupted, twice = the same."""

import pytest
import torch
from tiny_training import SETTINGS, Documents, configuration, digest, lines, packed

from snaketune.core.errors import ConfigError
from snaketune.data.rows.packing import one_per_row, pack
from snaketune.train.device import prepare_arithmetic
from snaketune.train.run import build_trainer, train


def test_the_same_training_twice_gives_the_same_bytes(base, rows, tmp_path):
    one = train(base, *rows, configuration(eval_steps=4), SETTINGS, tmp_path / "one")
    two = train(base, *rows, configuration(eval_steps=4), SETTINGS, tmp_path / "two")
    assert digest(one) == digest(two)
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert [line["step"] for line in lines(tmp_path / "one") if "eval_loss" in line] == [4, 8, 12]
    # What transformers and PEFT write beside is not kept.
    assert not {"training_args.bin", "README.md"} & {path.name for path in one.checkpoint.iterdir()}


def first_loss(base, rows, held_out, work, **keys):
    train(base, rows, held_out, configuration(max_steps=1, **keys), SETTINGS, work)
    return lines(work)[0]["loss"], lines(work)[0]["grad_norm"]


def test_packed_loss_and_gradient_equal_those_of_padded_rows(base, rows, tmp_path):
    documents = Documents(24, seed=3)
    together, apart = packed(tmp_path / "a", documents), packed(tmp_path / "b", documents, one_per_row)
    assert len(together) < len(apart)
    loss, norm = first_loss(base, together, rows[1], tmp_path / "x", per_device_train_batch_size=len(together))
    other, other_norm = first_loss(base, apart, rows[1], tmp_path / "y", per_device_train_batch_size=len(apart))
    assert loss == pytest.approx(other, rel=1e-5)
    assert norm == pytest.approx(other_norm, rel=1e-4)


@pytest.mark.parametrize("packer", [pack, one_per_row])
def test_every_module_is_in_training_mode_in_a_step_whatever_the_rows(base, tmp_path, packer):
    """A loaded model is in evaluation mode, in which dropout and recomputation do nothing."""
    cfg = configuration(max_steps=2, eval_steps=1)
    splits = [packed(tmp_path / str(seed), Documents(24, seed), packer) for seed in (3, 4)]
    trainer = build_trainer(base, *splits, cfg, SETTINGS, tmp_path / "work", prepare_arithmetic(1))
    modes = []
    layer = next(each for name, each in trainer.model.named_modules() if name.endswith("layers.0"))
    layer.register_forward_hook(lambda *_: modes.append([each.training for each in trainer.model.modules()]))
    trainer.train()
    training = [mode for mode in modes if mode[0]]
    assert len(training) == 2 * cfg["train"]["gradient_accumulation_steps"]
    assert all(map(all, training))


def test_accumulated_gradients_equal_one_large_batch(base, rows, tmp_path):
    one, many = ({"per_device_train_batch_size": a, "gradient_accumulation_steps": b} for a, b in ((8, 1), (1, 8)))
    train(base, *rows, configuration(max_steps=3, **one), SETTINGS, tmp_path / "one")
    train(base, *rows, configuration(max_steps=3, **many), SETTINGS, tmp_path / "many")
    for left, right in zip(lines(tmp_path / "one"), lines(tmp_path / "many"), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)
        assert left["tokens"] == right["tokens"]


def test_held_out_loss_is_weighted_by_tokens_whatever_the_batching(base, rows, tmp_path):
    losses = []
    for size in (1, 3):
        cfg = configuration(per_device_train_batch_size=size)
        trainer = build_trainer(base, *rows, cfg, SETTINGS, tmp_path / str(size), prepare_arithmetic(1))
        losses.append(trainer.held_out_loss())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_padding_is_never_counted_as_tokens(base, rows, tmp_path):
    train(base, *rows, configuration(max_steps=-1, num_train_epochs=2), SETTINGS, tmp_path)
    assert lines(tmp_path)[-1]["tokens"] == 2 * int(rows[0].tokens.sum())
    assert lines(tmp_path)[-1]["trained_tokens"] == 2 * int(rows[0].loss_mask.sum())


@pytest.mark.parametrize(
    ("adapter", "words"),
    [({"r": 64}, "adapter.r: 64"), ({"target_modules": ["nothing"]}, "adapter.target_modules")],
)
def test_an_adapter_that_does_not_fit_is_refused(base, rows, tmp_path, adapter, words):
    cfg = configuration()
    cfg["adapter"] |= adapter
    with pytest.raises(ConfigError, match=words):
        train(base, *rows, cfg, SETTINGS, tmp_path)


@pytest.mark.parametrize("key", ["bf16", "fp16", "tf32"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has these formats")
def test_formats_that_a_cpu_does_not_have_are_refused(base, rows, tmp_path, key):
    with pytest.raises(ConfigError, match=f"train.{key}: true"):
        train(base, *rows, configuration(**{key: True}), SETTINGS, tmp_path)


def test_compiled_layers_keep_the_names_of_the_adapter(base, rows, tmp_path):
    from safetensors import safe_open

    finished = train(base, *rows, configuration(max_steps=1, torch_compile=True), SETTINGS, tmp_path)
    with safe_open(finished.checkpoint / "adapter_model.safetensors", "pt") as file:
        assert not any("_orig_mod" in name for name in file.keys())  # noqa: SIM118
