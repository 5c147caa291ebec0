"""ORPO and KTO: the losses and gradients of TRL, packed = alone, accumulated = one batch, resumed = uninterrupted."""

import numpy as np
import pytest
import torch
from presets import NAMES, method_of, prepared
from test_preference import (
    SETTINGS,
    VOCABULARY,
    Pairs,
    arguments,
    assert_close,
    configuration,
    interrupted,
    lines,
    llama,
    packed,
    tuned,
    weights,
    work_in,
)
from test_preference import base as base
from test_preference import one_thread as one_thread
from test_preference import splits as splits

from snaketune.core.errors import DataError, TrainingError
from snaketune.data.rows.packing import one_per_row
from snaketune.train.device import prepare_arithmetic
from snaketune.train.preference.kto import UnpairedLoss, partners
from snaketune.train.preference.kto_trainer import UnpairedTrainer
from snaketune.train.preference.orpo import OddsRatioLoss, OddsRatioTrainer
from snaketune.train.run import prepare_run, train
from snaketune.train.signals import StopRequest
from snaketune.train.trainer import assemble

KTO, ORPO = UnpairedLoss(0.3, 1.2, 0.7), OddsRatioLoss(0.3)


class Answers(Pairs):
    """Single answers of which every third is bad, each with a prompt of its own."""

    def __init__(self, count: int, seed: int = 0):
        super().__init__(count, seed)
        self.bad = np.arange(count) % 3 == 0
        self.seconds = np.where(self.bad, -1, 0).astype(np.int32)
        self.lengths = np.array([len(self.document(n)[0]) for n in range(count)], np.int32)

    def document(self, index: int):
        prompt, answer, _ = self.parts[index]
        return np.array(prompt + answer, np.int32), np.array([0] * len(prompt) + [1] * len(answer), np.int8)


def stepped(model, rows, kind, loss, batches=None):
    """The gradient of one optimizer step over all rows, divided into batches of row numbers, and its loss."""
    trainer = assemble(model, arguments("unused"), rows, kind=kind, loss=loss)
    parts = [trainer.data_collator(part) for part in batches or [list(range(len(rows)))]]
    samples, units = trainer.get_batch_samples(iter(parts), len(parts), torch.device("cpu"))
    model.eval()
    total = 0.0
    for batch in samples:
        value = trainer.compute_loss(model, trainer._prepare_inputs(batch), num_items_in_batch=units)
        value.backward()
        total += value.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys() != set()
    for name, gradient in one[1].items():
        assert_close(gradient, other[1][name], name)


CASES = [
    pytest.param(OddsRatioTrainer, ORPO, Pairs, id="orpo"),
    pytest.param(UnpairedTrainer, KTO, Pairs, id="kto-pairs"),
    pytest.param(UnpairedTrainer, KTO, Answers, id="kto-answers"),
]


@pytest.mark.parametrize(("kind", "loss", "data"), CASES)
def test_packed_equals_alone_and_batches_change_nothing(tmp_path, kind, loss, data):
    store = data(10, seed=3)
    together, apart = packed(tmp_path / "a", store), packed(tmp_path / "b", store, one_per_row)
    assert len(together) < len(apart)
    whole = stepped(tuned(), together, kind, loss)
    assert_same(stepped(tuned(), apart, kind, loss), whole)
    assert_same(stepped(tuned(), together, kind, loss, [[0], list(range(1, len(together)))]), whole)


def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{n}": n for n in range(VOCABULARY)}
    engine = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="w0", eos_token="w1")


def test_orpo_has_the_loss_and_gradient_of_trl(tmp_path):
    pytest.importorskip("trl")
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer
    from trl.trainer.utils import pad

    pairs = Pairs(8, seed=4)
    oracle = object.__new__(ORPOTrainer)  # the loss alone: its constructor would tokenise texts
    oracle.beta, oracle.is_encoder_decoder, oracle.aux_loss_enabled, oracle.padding_value = 0.3, False, False, 0
    oracle.max_length, oracle.accelerator = 64, type("Alone", (), {"device": torch.device("cpu")})
    oracle.accelerator.gather_for_metrics = staticmethod(lambda value: value)
    batch = {}
    for side, name in enumerate(("chosen", "rejected"), 1):
        texts = [torch.tensor(parts[0] + parts[side]) for parts in pairs.parts]
        masked = [torch.tensor([-100] * len(parts[0]) + parts[side]) for parts in pairs.parts]
        batch |= {
            f"{name}_input_ids": pad(texts, 0),
            f"{name}_labels": pad(masked, -100),
            f"{name}_attention_mask": pad([torch.ones_like(text) for text in texts], 0),
        }
    model = tuned()
    loss, metrics = oracle.get_batch_loss_metrics(model, batch)
    loss.backward()
    expected = loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    rows = packed(tmp_path / "a", pairs)
    assert_same(stepped(tuned(), rows, OddsRatioTrainer, ORPO), expected)
    trainer = assemble(tuned(), arguments("unused"), rows, kind=OddsRatioTrainer, loss=ORPO)
    found = trainer.held_out_measures()
    assert found["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found["eval_reward_margin"] == pytest.approx(metrics["rewards/margins"], rel=1e-4, abs=1e-6)
    assert found["eval_reward_accuracy"] == pytest.approx(metrics["rewards/accuracies"])


def in_order_of_records(store):
    """Examples as TRL has them after tokenising: each with the answer of the one before for the KL term."""
    examples = [
        {"prompt_ids": prompt, "completion_ids": answer, "label": not bad}
        for (prompt, answer, _), bad in zip(store.parts, store.bad.tolist(), strict=True)
    ]
    for before, example in zip([examples[-1], *examples[:-1]], examples, strict=True):
        example["KL_completion_ids"] = before["completion_ids"]
    return examples


def test_kto_has_the_loss_and_gradient_of_trl(tmp_path):
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    class Oracle(KTOTrainer):
        def _prepare_dataset(self, dataset, *args):
            return dataset

    store = Answers(8, seed=4)
    examples = in_order_of_records(store)
    settings = KTOConfig(
        str(tmp_path / "trl"), beta=0.3, desirable_weight=1.2, undesirable_weight=0.7, use_cpu=True, bf16=False,
        report_to="none", max_length=None, gradient_checkpointing=False, train_sampling_strategy="sequential",
        per_device_train_batch_size=len(examples),
    )  # fmt: skip
    oracle = Oracle(tuned(), llama(), settings, train_dataset=Dataset.from_list(examples), processing_class=tokenizer())
    loss = oracle._compute_loss(oracle.model, oracle.data_collator(examples), False)
    loss.backward()
    metrics = oracle._metrics["eval"] or oracle._metrics["train"]
    assert metrics["kl"][0] > 0, "the KL term must take part"
    expected = loss.item(), {name: p.grad for name, p in oracle.model.named_parameters() if p.grad is not None}
    rows = packed(tmp_path / "a", store)
    assert_same(stepped(tuned(), rows, UnpairedTrainer, KTO), expected)
    found = assemble(tuned(), arguments("unused"), rows, kind=UnpairedTrainer, loss=KTO).held_out_measures()
    assert found["eval_kl"] == pytest.approx(metrics["kl"][0], rel=1e-5)
    assert found["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found["eval_reward_good"] == pytest.approx(metrics["rewards/chosen"][0], rel=1e-4)
    assert found["eval_reward_bad"] == pytest.approx(metrics["rewards/rejected"][0], rel=1e-4)


def trained(base, splits, work, method, **keys):
    return train(base, *splits, configuration(method=method, **keys), SETTINGS, work)


@pytest.mark.parametrize("method", ["orpo", "kto"])
def test_resumed_equals_uninterrupted(base, splits, tmp_path, method):
    keys = {"logging_steps": 3, "eval_steps": 4, "gradient_accumulation_steps": 2, "max_steps": 9}
    whole = trained(base, splits, work_in(tmp_path, "whole"), method, **keys)
    interrupted(base, splits, work_in(tmp_path, "parts"), at=8, method=method, **keys)
    resumed = trained(base, splits, work_in(tmp_path, "parts"), method, **keys)
    assert resumed.resumed_from == 5
    assert weights(resumed) == weights(whole) != {}
    assert lines(work_in(tmp_path, "parts")) == lines(work_in(tmp_path, "whole"))


@pytest.mark.parametrize("preset", [name for name in NAMES if method_of(name) in ("dpo", "orpo", "kto")])
def test_a_preset_trains_on_a_cpu(base, splits, tmp_path, preset):
    _, cfg, settings = prepared(preset)
    assert train(base, *splits, cfg, settings, work_in(tmp_path, "w")).steps == 2
    assert all(0 < line["loss"] < 20 for line in lines(work_in(tmp_path, "w")) if "loss" in line)


def test_the_mismatched_answer_is_that_of_another_record():
    assert partners([4, 2, 9]) == [1, 2, 0]
    assert partners([0, 0, 1, 1]) == [2, 3, 0, 1]
    assert partners([7, 7]) == []
    assert partners([0, 1, 1]) == [1, 0, 0]


def test_rows_of_one_kind_of_answers_are_refused(base, splits, tmp_path):
    store = Answers(6)
    store.seconds[:] = 0
    rows = packed(tmp_path / "good", store)
    with pytest.raises(DataError, match=r"all answers of train\.arrow are good"):
        trained(base, [rows, rows], work_in(tmp_path, "kto"), "kto")
    with pytest.raises(TrainingError, match="orpo needs rows of chosen and rejected answers"):
        trained(base, [rows, rows], work_in(tmp_path, "orpo"), "orpo")


def test_a_sample_of_one_kind_of_answers_can_be_measured(base, tmp_path):
    store = Answers(4)
    store.seconds[:] = 0
    rows = packed(tmp_path / "good", store)
    cfg, device = configuration(method="kto", max_steps=1), prepare_arithmetic(1)
    run = prepare_run(base, rows, rows, cfg, SETTINGS, work_in(tmp_path, "w"), device, StopRequest(), whole=cfg)
    assert run.trainer.train().global_step == 1
