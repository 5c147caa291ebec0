"""Documents of a batch that share their first tokens have the loss and the gradients that they have alone."""

import numpy as np
import pytest
import torch
from tiny_adapted import LORA, SIZES, build
from tiny_training import SETTINGS, Documents, break_off, configuration, digest, lines, packed
from transformers import LlamaConfig, MistralConfig, Qwen3MoeConfig

from snaketune.train.batches import IGNORED, dense, with_boundaries
from snaketune.train.kernels.attention import VARLEN, register_varlen
from snaketune.train.kernels.chunked_cross_entropy import put_chunked_loss
from snaketune.train.kernels.cpu_attention import attend_by_document
from snaketune.train.kernels.fused_layers import fuse_layers
from snaketune.train.kernels.prefix_sharing import can_share_prefixes
from snaketune.train.run import train
from snaketune.train.shared_prefixes import prefix_tree

SYSTEM, OTHER, THIRD = list(range(40, 60)), list(range(20, 44)), list(range(60, 90))
# Documents as (tokens, how many of the first are not trained).
CASES = {
    "one document": [([*SYSTEM, 1, 2], 20)],
    "nothing in common": [(SYSTEM, 18), (OTHER, 20)],
    "a system prompt": [([*SYSTEM, 1, 2, 3], 21), ([*SYSTEM, 4, 5], 21), ([*SYSTEM, 6, 7, 8], 22)],
    "identical": [([*SYSTEM, 1, 2], 21)] * 3,
    "equal to the prefix": [([*SYSTEM, 1, 2], 21), (SYSTEM, 20), (SYSTEM, 20), ([*SYSTEM, 3, 4], 21)],
    "shorter than the prefix": [([*SYSTEM, 1, 2], 21), (SYSTEM[:9], 7), (SYSTEM[:1], 1), ([*SYSTEM, 3, 4], 21)],
    "the answer begins in the prefix": [([*SYSTEM, 1, 2], 21), ([*SYSTEM, 1, 3], 18), ([*SYSTEM, 2], 20)],
    "trained from the start": [([*SYSTEM, 1], 1), ([*SYSTEM, 2], 1)],
    "trained nowhere": [([*SYSTEM, 1], 21), ([*SYSTEM, 2], 21), ([*SYSTEM, 3], 20)],
    "three groups": [
        ([*prompt, word, word + 1], len(prompt) + 1) for word in (1, 3, 5) for prompt in (SYSTEM, OTHER, THIRD)
    ],
    "a prompt after a system prompt": [
        ([*SYSTEM, *more, word, 9], len(SYSTEM) + len(more) + 1) for more in (OTHER, THIRD, [5]) for word in (1, 2, 3)
    ],
}


def rows_of(documents, length=0):
    """Return all documents in one row, with so much padding, as training reads it."""
    ids = torch.tensor([token for tokens, _ in documents for token in tokens] + [0] * length)
    trained = torch.cat([torch.arange(len(tokens)) >= max(1, first) for tokens, first in documents])
    trained = torch.cat([trained, torch.zeros(length, dtype=torch.bool)])
    positions = torch.cat([torch.arange(len(tokens)) for tokens, _ in documents] + [torch.arange(length)])
    rows = {"input_ids": ids, "labels": ids.where(trained, IGNORED), "position_ids": positions}
    return {name: values[None] for name, values in rows.items()}, torch.tensor([len(ids) - length])


def learn(model, losses):
    """Return the sum of the losses and the gradients."""
    model.zero_grad(set_to_none=True)
    total = sum(losses)
    total.backward()
    return total.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def visible(batch):
    """Return which tokens each token of a batch with boundaries sees, from the boundaries alone."""
    edges, untils = batch["cu_seq_lens_q"].tolist(), batch["cu_seq_lens_k"].tolist()
    seen = torch.zeros(edges[-1], edges[-1], dtype=torch.bool)
    for start, end, until in zip(edges[:-1], edges[1:], untils[1:], strict=True):
        seen[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        seen[end:until, start:end] = True
    return seen


@pytest.mark.parametrize("documents", CASES.values(), ids=CASES)
def test_each_trained_token_sees_its_own_document_and_nothing_else(documents):
    batch = dense(*rows_of(documents, 40), shares_prefixes=True)
    batch = batch if "cu_seq_lens_q" in batch else with_boundaries(batch)
    ids, labels, positions = (batch[name][0] for name in ("input_ids", "labels", "position_ids"))
    seen = visible(batch)
    found = [
        (ids[seen[place]].tolist(), positions[seen[place]].tolist(), int(labels[place + 1]))
        for place in torch.nonzero(labels[1:] != IGNORED).flatten().tolist()
    ]
    expected = [
        (tokens[:at], list(range(at)), tokens[at])
        for tokens, first in documents
        for at in range(max(1, first), len(tokens))
    ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("documents", CASES.values(), ids=CASES)
def test_a_tree_keeps_each_prefix_once(documents):
    rows, _ = rows_of(documents)
    ids, positions, labels = (rows[name][0].numpy() for name in ("input_ids", "position_ids", "labels"))
    tree = prefix_tree(ids, positions, labels != IGNORED)
    sharable = {
        tuple(tokens[:at])
        for tokens, first in documents
        for at in range(1, (first if first < len(tokens) else len(tokens) + 1))
    }
    own = sum(len(tokens) - (first - 1 if first < len(tokens) else len(tokens)) for tokens, first in documents)
    assert tree is None or len(sharable) + own <= tree.size < len(ids)


def test_prefixes_that_save_little_are_not_shared():
    few = [([1, 2, 3, 4, 5, 6, word, 7], 7) for word in (8, 9)]
    rows, _ = rows_of(few)
    ids, positions, labels = (rows[name][0].numpy() for name in ("input_ids", "position_ids", "labels"))
    assert prefix_tree(ids, positions, labels != IGNORED) is None
    rows, _ = rows_of(few * 3)
    ids, positions, labels = (rows[name][0].numpy() for name in ("input_ids", "position_ids", "labels"))
    assert prefix_tree(ids, positions, labels != IGNORED).size == 48 - 5 * 6


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
@pytest.mark.parametrize("documents", CASES.values(), ids=CASES)
def test_loss_and_gradients_are_those_of_each_document_alone(documents, lora):
    register_varlen(attend_by_document)
    plain, ours = build(LlamaConfig(**SIZES), "sdpa", lora), build(LlamaConfig(**SIZES), VARLEN, lora)
    fuse_layers(ours)
    put_chunked_loss(ours)
    alone = [rows_of([document])[0] for document in documents]
    count = sum(int((rows["labels"] != IGNORED).sum()) for rows in alone)
    losses = [plain(**rows, use_cache=False, num_items_in_batch=max(1, count)).loss for rows in alone]
    expected = learn(plain, losses)
    batch = dense(*rows_of(documents, 5), shares_prefixes=True)
    batch = batch if "cu_seq_lens_q" in batch else with_boundaries(batch)
    found = learn(ours, [ours(**batch, use_cache=False, num_items_in_batch=max(1, count)).loss])
    assert torch.allclose(found[0], expected[0], rtol=1e-5)
    for name, gradient in expected[1].items():
        assert float((found[1][name] - gradient).norm()) <= 2e-5 * float(gradient.norm()) + 1e-8, name


CHANGED = {
    "dropout": lambda: build(LlamaConfig(**SIZES), VARLEN, LORA | {"lora_dropout": 0.1}),
    "windows": lambda: build(MistralConfig(**SIZES, sliding_window=20), VARLEN),
    "a mask": lambda: build(LlamaConfig(**SIZES), "sdpa"),
    "a router's loss": lambda: build(
        Qwen3MoeConfig(**SIZES, num_experts=4, moe_intermediate_size=16, output_router_logits=True), VARLEN, None
    ),
}


@pytest.mark.parametrize("changed", CHANGED)
def test_a_model_whose_documents_differ_shares_nothing(changed):
    register_varlen(attend_by_document)
    assert not can_share_prefixes(CHANGED[changed](), 21)


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SIZES), MistralConfig(**SIZES, sliding_window=21)],
    ids=["Llama", "windows as long as a document"],
)
def test_a_model_may_share_prefixes_and_is_left_as_it_was(config):
    register_varlen(attend_by_document)
    model = build(config, VARLEN).eval()
    generator = torch.get_rng_state()
    assert can_share_prefixes(model, 21)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(part.training for part in model.modules())


def test_a_model_that_passes_no_boundaries_of_keys_shares_nothing(capsys):
    register_varlen(
        lambda query, key, value, own, _, *rest, **more: attend_by_document(query, key, value, own, own, *rest, **more)
    )
    model = build(LlamaConfig(**SIZES), VARLEN)
    shares = can_share_prefixes(model, 64)
    register_varlen(attend_by_document)
    assert not shares
    assert "documents share no prefixes" in capsys.readouterr().out


def test_windows_refuse_documents_that_share_prefixes():
    batch = dense(*rows_of(CASES["a system prompt"]), shares_prefixes=True)
    states = torch.zeros(batch["input_ids"].numel(), 1, 8)
    edges = (batch["cu_seq_lens_q"], batch["cu_seq_lens_k"])
    with pytest.raises(ValueError, match="share prefixes"):
        attend_by_document(states, states, states, *edges, 24, 24, window_size=(21, 0))


class Prompted(Documents):
    """Documents of which three in four begin with the same untrained tokens."""

    def __init__(self, count, seed=0):
        super().__init__(count, seed)
        self.has_prompt = np.arange(count) % 4 > 0
        self.lengths = np.minimum(self.lengths + len(SYSTEM) * self.has_prompt, 48).astype(np.int32)

    def document(self, index):
        ids, mask = super().document(index)
        if self.has_prompt[index]:
            ids, mask = np.concatenate([np.array(SYSTEM, np.int32), ids]), np.concatenate([np.zeros(20, np.int8), mask])
        return ids[: self.lengths[index]], mask[: self.lengths[index]]


def test_a_training_that_shares_prefixes_is_the_same_training_and_resumes_to_the_same_bytes(base, tmp_path):
    rows = packed(tmp_path / "train.arrow", Prompted(40)), packed(tmp_path / "eval.arrow", Prompted(9, seed=5))
    cfg = configuration(per_device_train_batch_size=3, max_steps=8, eval_steps=4)
    shared = train(base, *rows, cfg, SETTINGS, tmp_path / "shared")
    apart = train(base, *rows, cfg | {"train": cfg["train"] | {"keeps_prefixes": True}}, SETTINGS, tmp_path / "apart")
    assert [found.info["engine"]["shares_prefixes"] for found in (shared, apart)] == [True, False]
    names = {name for line in lines(tmp_path / "apart") for name in line}
    assert {"loss", "grad_norm", "eval_loss", "tokens"} <= names
    for one, other in zip(lines(tmp_path / "shared"), lines(tmp_path / "apart"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    break_off(base, rows, cfg, tmp_path / "resumed", at=6)
    assert digest(train(base, *rows, cfg, SETTINGS, tmp_path / "resumed")) == digest(shared)
