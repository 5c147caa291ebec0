"""Exactness of training: packed = unpacked, accumulated = one batch, resumed = uninterrupted, twice = the same."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from snaketune.common.errors import ConfigError, TrainingError
from snaketune.config.schema import AdapterConfig
from snaketune.config.schema_train import TrainConfig
from snaketune.data.packing import one_per_row, pack
from snaketune.data.rows import PackedRows, write_rows
from snaketune.train.device import prepare_arithmetic
from snaketune.train.metrics import VOLATILE_KEYS, read_metrics
from snaketune.train.run import build_trainer, train

VOCABULARY, ROW = 97, 48


class Documents:
    """A store of random documents, half of each trained."""

    def __init__(self, count: int, seed: int = 0):
        generator = np.random.default_rng(seed)
        self.lengths = generator.integers(4, 40, count).astype(np.int32)
        self._ids = [generator.integers(3, VOCABULARY, n).astype(np.int32) for n in self.lengths]
        self.records = np.arange(count)

    def __len__(self) -> int:
        return len(self._ids)

    def document(self, index: int):
        ids = self._ids[index]
        mask = np.ones(len(ids), np.int8)
        mask[: len(ids) // 2] = 0
        return ids, mask


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def packed(path: Path, documents: Documents, packer=pack) -> PackedRows:
    write_rows(path, documents, packer(documents.lengths, ROW) if packer is pack else packer(documents.lengths), ROW, 0)
    return PackedRows(path)


def configuration(**train_keys):
    defaults = {"logging_steps": 1, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "cpu_threads": 1}
    train_cfg = TrainConfig(**{**defaults, "gradient_accumulation_steps": 1, "max_steps": 12, **train_keys})
    adapter = AdapterConfig(r=4, lora_alpha=8, lora_dropout=train_keys.pop("dropout", 0.0))
    model = {"dtype": "auto", "attn_implementation": "auto", "trust_remote_code": False}
    return {"train": train_cfg.model_dump(), "adapter": adapter.model_dump(), "model": model}


SETTINGS = {
    "save_steps": 4,
    "save_total_limit": 2,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": None,
    "dataloader_pin_memory": True,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return packed(folder / "train.arrow", Documents(60)), packed(folder / "eval.arrow", Documents(9, seed=5))


def digest(finished) -> str:
    return hashlib.sha256((finished.checkpoint / "adapter_model.safetensors").read_bytes()).hexdigest()


def lines(work: Path):
    stable = [
        {k: v for k, v in line.items() if k not in VOLATILE_KEYS} for line in read_metrics(work / "metrics.jsonl")
    ]
    return stable


class StopAt(TrainerCallback):
    """Break off as a crash would: after a step, before its checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def interrupted(base, rows, cfg, work, at):
    trainer = build_trainer(base, *rows, cfg, SETTINGS, work, prepare_arithmetic(1))
    trainer.add_callback(StopAt(at))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


def test_the_same_training_twice_gives_the_same_bytes(base, rows, tmp_path):
    one = train(base, *rows, configuration(eval_steps=4), SETTINGS, tmp_path / "one")
    two = train(base, *rows, configuration(eval_steps=4), SETTINGS, tmp_path / "two")
    assert digest(one) == digest(two)
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert [line["step"] for line in lines(tmp_path / "one") if "eval_loss" in line] == [4, 8, 12]


@pytest.mark.parametrize("keys", [{}, {"gradient_accumulation_steps": 2}, {"gradient_checkpointing": True}])
def test_resumed_equals_uninterrupted(base, rows, tmp_path, keys):
    whole = train(base, *rows, configuration(**keys), SETTINGS, tmp_path / "whole")
    interrupted(base, rows, configuration(**keys), tmp_path / "parts", at=7)
    resumed = train(base, *rows, configuration(**keys), SETTINGS, tmp_path / "parts")
    assert resumed.resumed_from == 4
    assert digest(resumed) == digest(whole)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "no manifest"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(base, rows, tmp_path, damage, capsys):
    whole = train(base, *rows, configuration(), SETTINGS, tmp_path / "whole")
    interrupted(base, rows, configuration(), tmp_path / "parts", at=11)
    newest = tmp_path / "parts" / "checkpoint-8"
    victim = newest / ("checkpoint.json" if damage == "no manifest" else "optimizer.pt")
    if damage in ("delete", "no manifest"):
        victim.unlink()
    else:
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 64
        victim.write_bytes(content if damage == "flip" else content[:100])
    resumed = train(base, *rows, configuration(), SETTINGS, tmp_path / "parts")
    assert resumed.resumed_from == 4
    assert "checkpoint-8 is damaged" in capsys.readouterr().out
    assert digest(resumed) == digest(whole)


def test_a_finished_training_is_not_trained_again(base, rows, tmp_path, capsys):
    first = train(base, *rows, configuration(), SETTINGS, tmp_path)
    before = digest(first)
    again = train(base, *rows, configuration(), SETTINGS, tmp_path)
    assert (again.tokens_this_time, again.resumed_from, digest(again)) == (0, 12, before)
    assert "already complete" in capsys.readouterr().out


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


class Poison(TrainerCallback):
    """Make the adapter not-a-number after a step, as an overflow would."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 5:
            next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(base, rows, tmp_path):
    trainer = build_trainer(base, *rows, configuration(), SETTINGS, tmp_path, prepare_arithmetic(1))
    trainer.add_callback(Poison())
    with pytest.raises(TrainingError, match=r"step 6: loss is nan at learning rate"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4"]


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
