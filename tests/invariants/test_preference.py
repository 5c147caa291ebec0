"""Exactness of DPO: packed = one pair per row, accumulated = one batch, the same as TRL, resumed = uninterrupted."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
    TrainingArguments,
)

from snaketune.config.schema import AdapterConfig
from snaketune.config.schema_train import TrainConfig
from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import one_per_row, pack
from snaketune.train.batches import BatchLayout
from snaketune.train.device import prepare_arithmetic
from snaketune.train.monitoring.metrics import VOLATILE_METRICS, read_metrics
from snaketune.train.preference import dpo
from snaketune.train.preference.dpo import PreferenceLoss, install_log_probs
from snaketune.train.preference.dpo_trainer import PreferenceTrainer
from snaketune.train.preference.reference import PairCollator, document_log_probs
from snaketune.train.run import build_trainer, prepare_run, train
from snaketune.train.signals import StopRequest
from snaketune.train.trainer import Hooks, assemble

VOCABULARY, ROW = 97, 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
SIGMOID = PreferenceLoss(0.1, "sigmoid", 0.0)


class Pairs:
    """A store of random pairs: a prompt of a few tokens with a chosen and a rejected answer of other lengths."""

    margins = None

    def __init__(self, count: int, seed: int = 0, are_equal: bool = False):
        generator = np.random.default_rng(seed)
        sizes = generator.integers(2, 9, (count, 3))
        sizes[:, 2] = sizes[:, 1] if are_equal else sizes[:, 2]
        self.parts = [[generator.integers(3, VOCABULARY, n).tolist() for n in row] for row in sizes]
        self.records = np.arange(count)
        self.seconds = np.array([len(prompt) + len(chosen) for prompt, chosen, _ in self.parts], np.int32)
        self.lengths = np.array([len(self.document(n)[0]) for n in range(count)], np.int32)

    def __len__(self) -> int:
        return len(self.parts)

    def document(self, index: int):
        prompt, chosen, rejected = self.parts[index]
        mask = [0] * len(prompt) + [1] * len(chosen) + [0] * len(prompt) + [1] * len(rejected)
        return np.array(prompt + chosen + prompt + rejected, np.int32), np.array(mask, np.int8)


def packed(path: Path, pairs: Pairs, packer=pack) -> PackedRows:
    plan = pack(pairs.lengths, ROW) if packer is pack else packer(pairs.lengths)
    write_rows(path, pairs, plan, ROW, 0, getattr(pairs, "margins", None))
    return PackedRows(path)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def llama(seed=1, **changes):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES | changes)).eval()


def tuned(seed=2, **changes):
    """A small model whose adapter already does something."""
    torch.manual_seed(seed)
    model = get_peft_model(llama(**changes), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def arguments(folder, **changes):
    defaults = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": 1, "seed": 3}
    return TrainingArguments(
        str(folder), use_cpu=True, report_to="none", remove_unused_columns=False, label_names=["labels"],
        save_strategy="no", logging_steps=1, learning_rate=1e-2, disable_tqdm=True, **{**defaults, **changes},
    )  # fmt: skip


def trainer_of(model, rows, folder, loss=SIGMOID, **changes):
    return assemble(model, arguments(folder, **changes), rows, kind=PreferenceTrainer, loss=loss)


def scored(model, rows, loss=SIGMOID, indices=None):
    """The losses and margins of the pairs with an untrained adapter as reference, and the policy's gradient."""
    trainer = trainer_of(model, rows, "unused", loss)
    batch = trainer.data_collator(indices or list(range(len(rows))))
    losses, margins, _ = trainer._score(model, batch)
    losses.mean().backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    records = [d.record for row in batch["facts"].rows for d in rows.documents(row)][0::2]
    order = np.argsort(records)
    return losses.detach()[order], margins[order], gradient


def assert_close(one, other, name):
    assert float((one - other).norm()) <= 1e-5 * max(float(other.norm()), 1e-3), name


def alone(model, ids, trained):
    with torch.no_grad():
        logs = model(torch.tensor([ids]), use_cache=False).logits.log_softmax(-1)[0]
    return sum(float(logs[place - 1, ids[place]]) for place in range(len(ids) - trained, len(ids)))


def test_log_probabilities_of_packed_documents_are_those_they_have_alone(tmp_path):
    pairs, model = Pairs(9), llama()
    rows = packed(tmp_path / "a", pairs)
    batch = PairCollator(rows, BatchLayout())(list(range(len(rows))))
    expected = {
        n: [alone(model, p + answer, len(answer)) for answer in (c, r)] for n, (p, c, r) in enumerate(pairs.parts)
    }
    install_log_probs(model)
    found = document_log_probs(model, batch).tolist()
    records = [d.record for row in range(len(rows)) for d in rows.documents(row)]
    assert found == pytest.approx([expected[record][n % 2] for n, record in enumerate(records)], rel=1e-5)


def test_padding_is_no_document_even_in_rows_that_are_nothing_else(tmp_path):
    rows = packed(tmp_path / "a", Pairs(5))
    assert (rows.tokens < ROW).any()
    plain, filled = (PairCollator(rows, BatchLayout(rows=n))([0, 1]) for n in (0, 5))
    assert len(filled["input_ids"]) == 5
    for name in ("places", "targets", "owners", "sizes"):
        assert torch.equal(plain[name], filled[name])
    assert len(plain["sizes"]) == sum(len(rows.documents(row)) for row in (0, 1))


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge"])
def test_packed_equals_one_pair_per_row(tmp_path, kind):
    pairs = Pairs(12)
    together, apart = packed(tmp_path / "a", pairs), packed(tmp_path / "b", pairs, one_per_row)
    assert len(together) < len(apart)
    loss = PreferenceLoss(0.3, kind, 0.0)
    one, other = scored(tuned(), together, loss), scored(tuned(), apart, loss)
    assert one[0].tolist() == pytest.approx(other[0].tolist(), rel=1e-5)
    assert one[1].tolist() == pytest.approx(other[1].tolist(), rel=1e-5, abs=1e-6)
    for name, gradient in one[2].items():
        assert_close(gradient, other[2][name], name)


def test_chunks_of_logits_change_nothing(tmp_path, monkeypatch):
    rows = packed(tmp_path / "a", Pairs(12))
    whole = scored(tuned(), rows)
    monkeypatch.setattr(dpo, "LOGITS_AT_ONCE", 7 * VOCABULARY)
    model, made = tuned(), []
    model.get_base_model().lm_head.register_forward_hook(lambda module, inputs, output: made.append(output.shape[1]))
    pieces = scored(model, rows)
    assert max(made) == 7, "never more logits at once than a chunk has"
    assert whole[0].tolist() == pytest.approx(pieces[0].tolist(), rel=1e-6)
    for name, gradient in whole[2].items():
        assert_close(gradient, pieces[2][name], name)


def test_logits_are_the_models_own_where_it_caps_them(tmp_path):
    torch.manual_seed(1)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0)).eval()
    pairs = Pairs(3)
    rows = packed(tmp_path / "a", pairs, one_per_row)
    prompt, chosen, _ = pairs.parts[rows.documents(0)[0].record]
    expected = alone(model, prompt + chosen, len(chosen))
    install_log_probs(model)
    assert document_log_probs(model, PairCollator(rows, BatchLayout())([0]))[0].item() == pytest.approx(
        expected, rel=1e-5
    )
    assert model(torch.tensor([[5, 6]]), use_cache=False).logits.abs().max() < 2


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """TRL's trainer over the same pairs, given as token ids: what a loss type makes of them, and the gradient."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    class Oracle(DPOTrainer):
        def _prepare_dataset(self, dataset, *args):
            return dataset

    words = {f"w{n}": n for n in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), pad_token="w0", eos_token="w1"
    )

    def ask(pairs, kind, beta, swapped=False):
        names = (
            ("prompt_ids", "rejected_ids", "chosen_ids") if swapped else ("prompt_ids", "chosen_ids", "rejected_ids")
        )
        examples = [dict(zip(names, parts, strict=True)) for parts in pairs.parts]
        folder = tmp_path_factory.mktemp("trl")
        settings = DPOConfig(str(folder), loss_type=kind, beta=beta, use_cpu=True, bf16=False, report_to="none",
                             max_length=None, gradient_checkpointing=False)  # fmt: skip
        trainer = Oracle(
            tuned(), llama(), settings, train_dataset=Dataset.from_list(examples), processing_class=tokenizer
        )
        found = [trainer._compute_loss(trainer.model, trainer.data_collator([e]), False).item() for e in examples]
        margins = list(trainer._metrics["train"]["rewards/margins"])
        trainer._compute_loss(trainer.model, trainer.data_collator(examples), False).backward()
        return found, margins, {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}

    return ask


@pytest.mark.parametrize(("kind", "beta"), [("sigmoid", 0.1), ("ipo", 0.2), ("hinge", 0.5)])
def test_losses_rewards_and_gradients_are_those_of_trl(oracle, tmp_path, kind, beta):
    pairs = Pairs(8, seed=4)
    found, margins, gradient = oracle(pairs, kind, beta)
    own = scored(tuned(), packed(tmp_path / "a", pairs), PreferenceLoss(beta, kind, 0.0))
    assert own[0].tolist() == pytest.approx(found, rel=1e-5, abs=1e-6)
    assert own[1].tolist() == pytest.approx(margins, rel=1e-5, abs=1e-5)
    assert own[2].keys() == gradient.keys()
    for name, expected in gradient.items():
        assert_close(own[2][name], expected, name)


def test_smoothed_labels_mix_the_losses_of_a_pair_and_of_its_reverse(oracle, tmp_path):
    pairs = Pairs(5, seed=6)
    right, wrong = (np.array(oracle(pairs, "sigmoid", 0.4, swapped)[0]) for swapped in (False, True))
    own = scored(tuned(), packed(tmp_path / "a", pairs), PreferenceLoss(0.4, "sigmoid", 0.2))
    assert own[0].tolist() == pytest.approx((0.8 * right + 0.2 * wrong).tolist(), rel=1e-5)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    llama(initializer_range=0.05).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return packed(folder / "train.arrow", Pairs(40)), packed(folder / "eval.arrow", Pairs(7, seed=5))


def configuration(adapter=None, dpo=None, **train_keys):
    defaults = {"method": "dpo", "logging_steps": 1, "learning_rate": 1e-3, "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 1, "max_steps": 12, "cpu_threads": 1, "dpo": dpo or {}}  # fmt: skip
    model = {"dtype": "auto", "attn_implementation": "auto", "trust_remote_code": False, "quantization": "none"}
    train_cfg = TrainConfig(**{**defaults, **train_keys}).model_dump()
    return {"train": train_cfg, "adapter": AdapterConfig(**(adapter or {"r": 4})).model_dump(), "model": model}


SETTINGS = {
    "save_steps": 5,
    "save_total_limit": 2,
    "hours_between_interruptions": 24.0,
    "max_loss_increase": None,
    "report_to": [],
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": None,
    "dataloader_pin_memory": True,
}


def work_in(root: Path, name: str) -> Path:
    return root / "runs" / name


def trained(base, splits, work, **keys):
    return train(base, *splits, configuration(**keys), SETTINGS, work)


def weights(finished):
    return {path.name: path.read_bytes() for path in sorted(finished.checkpoint.glob("*model*.safetensors"))}


def lines(work):
    found = read_metrics(work / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in VOLATILE_METRICS} for line in found]


class StopAt(TrainerCallback):
    """Break off as a crash would, after a step and before its checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def interrupted(base, splits, work, at, **keys):
    trainer = build_trainer(base, *splits, configuration(**keys), SETTINGS, work, prepare_arithmetic(1))
    trainer.add_callback(StopAt(at))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


@pytest.mark.parametrize(
    "keys", [{}, {"adapter": {"type": "none"}}, {"logging_steps": 3, "gradient_checkpointing": True}]
)
def test_resumed_equals_uninterrupted(base, splits, tmp_path, keys):
    whole = trained(base, splits, work_in(tmp_path, "whole"), **keys)
    interrupted(base, splits, work_in(tmp_path, "parts"), at=8, **keys)
    resumed = trained(base, splits, work_in(tmp_path, "parts"), **keys)
    assert resumed.resumed_from == 5
    assert weights(resumed) == weights(whole) != {}
    assert lines(work_in(tmp_path, "parts")) == lines(work_in(tmp_path, "whole"))


def test_the_first_loss_is_that_of_a_policy_equal_to_its_reference(base, splits, tmp_path):
    for kind, expected in (("sigmoid", math.log(2)), ("hinge", 1.0), ("ipo", 25.0)):
        trained(base, splits, work_in(tmp_path, kind), max_steps=1, dpo={"loss_type": kind}, learning_rate=1e-4)
        line = lines(work_in(tmp_path, kind))[0]
        assert line["loss"] == pytest.approx(expected, rel=1e-5)
        assert abs(line["reward_margin"]) < 1e-5
        assert 0 < line["preference_accuracy"] < 1


@pytest.mark.parametrize("keys", [{}, {"adapter": {"type": "none"}}])
def test_accumulated_gradients_equal_one_large_batch(base, splits, tmp_path, keys):
    counts = {len(splits[0].documents(row)) for row in range(len(splits[0]))}
    assert len(counts) > 1, "rows must hold different numbers of pairs"
    for name, (size, times) in {"one": (4, 1), "many": (1, 4)}.items():
        trained(base, splits, work_in(tmp_path, name), max_steps=3, per_device_train_batch_size=size,
                gradient_accumulation_steps=times, eval_steps=1, **keys)  # fmt: skip
    one, many = lines(work_in(tmp_path, "one")), lines(work_in(tmp_path, "many"))
    assert len(one) == 6
    for left, right in zip(one, many, strict=True):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-6)


def test_preferences_are_learned_and_counted(base, tmp_path):
    """Chosen answers are made of other tokens than rejected ones: that must show on pairs never seen."""
    splits = [
        packed(tmp_path / name, distinct(Pairs(n, seed, are_equal=True)))
        for name, n, seed in (("t", 60, 1), ("e", 20, 2))
    ]
    keys = {"adapter": {"type": "none"}, "learning_rate": 1e-2, "dpo": {"beta": 0.3}}
    trained(base, splits, work_in(tmp_path, "run"), max_steps=20, eval_steps=20, **keys)
    first, *_, last, held_out = lines(work_in(tmp_path, "run"))
    assert first["preference_accuracy"] < 0.8
    assert min(last["preference_accuracy"], last["reward_accuracy"]) == 1
    assert held_out["eval_preference_accuracy"] == held_out["eval_reward_accuracy"] == 1
    assert held_out["eval_loss"] < 0.3 * first["loss"]
    assert held_out["eval_reward_margin"] > 1


def distinct(pairs):
    """The pairs with the chosen answers made of small tokens and the rejected ones of large ones."""
    for _, chosen, rejected in pairs.parts:
        chosen[:] = [3 + token % 40 for token in chosen]
        rejected[:] = [50 + token % 40 for token in rejected]
    return pairs


def test_a_run_with_another_loss_finds_the_reference(base, splits, tmp_path, capsys):
    trained(base, splits, work_in(tmp_path, "one"), max_steps=2)
    assert capsys.readouterr().out.count("Computing reference log-probabilities") == 2
    kept = {path: path.read_bytes() for path in (tmp_path / "references").rglob("*-0")}
    assert {path.name for path in kept} == {"train-0", "eval-0"}
    keys = {"max_steps": 3, "learning_rate": 5e-4, "dpo": {"beta": 0.3}, "per_device_train_batch_size": 1}
    trained(base, splits, work_in(tmp_path, "two"), adapter={"r": 8}, **keys)
    assert "Computing reference log-probabilities" not in capsys.readouterr().out
    trained(base, [splits[1], splits[1]], work_in(tmp_path, "three"), max_steps=1)
    assert "Computing reference log-probabilities" in capsys.readouterr().out, "other rows have another reference"
    assert all(path.read_bytes() == content for path, content in kept.items())


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_reference_is_made_again(base, splits, tmp_path, capsys, damage):
    trained(base, splits, work_in(tmp_path, "one"), max_steps=2)
    (path,) = (tmp_path / "references").rglob("train-0")
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 64
    path.write_bytes({"flip": flipped, "truncate": content[:-3], "empty": b""}[damage])
    capsys.readouterr()
    trained(base, splits, work_in(tmp_path, "two"), max_steps=2)
    out = capsys.readouterr().out
    assert "are damaged" in out and out.count("Computing reference log-probabilities") == 1
    assert path.read_bytes() == content
    assert lines(work_in(tmp_path, "one")) == lines(work_in(tmp_path, "two"))


def test_going_on_from_an_adapter_its_start_is_the_reference(base, splits, tmp_path, capsys):
    earlier = trained(base, splits, work_in(tmp_path, "earlier"), max_steps=6, learning_rate=1e-2)
    assert lines(work_in(tmp_path, "earlier"))[-1]["reward_margin"] > 0.01
    capsys.readouterr()
    start = earlier.checkpoint / "adapter_model.safetensors"
    for name, steps in (("whole", 12), ("parts", 8)):
        cfg, work = configuration(max_steps=12), work_in(tmp_path, name)
        if steps < 12:
            interrupted_run = prepare_run(
                base, *splits, cfg, SETTINGS, work, prepare_arithmetic(1), StopRequest(), start
            )
            interrupted_run.trainer.add_callback(StopAt(steps))
            with pytest.raises(KeyboardInterrupt):
                interrupted_run.trainer.train()
            for path in (tmp_path / "references").rglob("*-0"):
                path.unlink()  # computed again at the resumption, where the checkpoint must not be in it
        finished = train(base, *splits, cfg, SETTINGS, work, start)
    assert lines(work_in(tmp_path, "whole"))[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert finished.resumed_from == 5
    assert lines(work_in(tmp_path, "parts")) == lines(work_in(tmp_path, "whole"))


def test_a_stop_while_the_reference_is_computed_is_one_sentence(splits):
    hooks = Hooks(stop_requested=lambda: True)
    with pytest.raises(TrainingError, match="stopped while computing the reference log-probabilities"):
        assemble(tuned(), arguments("unused"), splits[0], hooks=hooks, kind=PreferenceTrainer, loss=SIGMOID)


def test_rows_of_single_documents_are_refused(base, tmp_path):
    pairs = Pairs(4)
    pairs.seconds = np.zeros(4, np.int32)
    rows = packed(tmp_path / "a", pairs)
    with pytest.raises(TrainingError, match="these hold single documents"):
        trained(base, [rows, rows], work_in(tmp_path, "run"))
