"""Layers for training on a CPU compute what PEFT, transformers and attention with a mask compute."""

import copy

import pytest
import torch
from tiny_adapted import LORA, SIZES, build
from transformers import GemmaConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from snaketune.train.batches import dense, with_boundaries
from snaketune.train.kernels import attention
from snaketune.train.kernels.attention import VARLEN, needs_boundaries, register_varlen, select_attention
from snaketune.train.kernels.chunked_cross_entropy import put_chunked_loss
from snaketune.train.kernels.cpu_attention import attend_by_document
from snaketune.train.kernels.fused_layers import fuse_layers

POSITIONS = torch.cat([torch.arange(n) for n in (9, 1, 6, 14, 2)]).view(2, 16)


def batch():
    ids = torch.randint(0, 97, POSITIONS.shape, generator=torch.Generator().manual_seed(2))
    return {"input_ids": ids, "position_ids": POSITIONS}


def learn(model, given):
    """Return the logits and the gradients of all trained weights."""
    model.zero_grad(set_to_none=True)
    logits = model(**given, use_cache=False).logits
    logits.log_softmax(-1).square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    assert torch.allclose(found[0], expected[0], atol=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert float((found[1][name] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-9, name


@pytest.mark.parametrize(
    ("config", "lora", "fused"),
    [
        (LlamaConfig(**SIZES), LORA, 2 * (7 + 2 + 2) + 2),
        (Qwen2Config(**SIZES), LORA, 2 * (7 + 2 + 2) + 2),  # a bias
        (LlamaConfig(**SIZES), {**LORA, "target_modules": ["q_proj", "down_proj"]}, 2 * (7 + 2 + 2) + 2),
        (LlamaConfig(**SIZES), None, 2 * (7 + 2 + 2) + 2),  # every weight is trained
        (LlamaConfig(**SIZES, hidden_act="gelu"), LORA, 2 * (7 + 2 + 1) + 2),
        (GemmaConfig(**SIZES, head_dim=8), LORA, 2 * (7 + 1) + 1),  # its norm is another one
        (LlamaConfig(**SIZES), {**LORA, "use_dora": True}, 2 * 3 + 2),
        (LlamaConfig(**SIZES), {**LORA, "lora_bias": True}, 2 * 3 + 2),
    ],
)
def test_fused_layers_give_the_same_logits_and_gradients(config, lora, fused):
    plain, model = build(config, lora=lora), build(config, lora=lora)
    assert fuse_layers(model) == fused
    assert_same(learn(model, batch()), learn(plain, batch()))


def test_with_more_tokens_than_inputs_the_adapter_is_added_to_the_weight():
    plain, model = build(LlamaConfig(**SIZES)), build(LlamaConfig(**SIZES))
    fuse_layers(model)
    long = {name: torch.cat([part] * 3) for name, part in batch().items()}
    assert long["input_ids"].numel() > SIZES["intermediate_size"]
    assert_same(learn(model, long), learn(plain, long))


@pytest.mark.parametrize(
    ("config", "is_known"),
    [
        (LlamaConfig(**SIZES), True),
        (Qwen2Config(**SIZES), True),
        (Qwen3Config(**SIZES, head_dim=8), True),
        (MistralConfig(**SIZES, sliding_window=5), True),
        (GemmaConfig(**SIZES, head_dim=8), False),
    ],
)
@pytest.mark.parametrize("trained", [0.4, 0.0])
def test_the_last_layer_of_known_models_is_computed_where_a_loss_follows(config, is_known, trained):
    plain, model = build(config), build(config)
    fuse_layers(model)
    put_chunked_loss(model)
    seen = []
    last = model.get_base_model().model.layers[-1].mlp
    last.register_forward_hook(lambda module, given, out: seen.append(out[..., 0].numel()))
    labels = batch()["input_ids"].clone()
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(3)) >= trained] = -100
    count = int((labels[:, 1:] != -100).sum())
    results = []
    for each in (model, plain):
        loss = each(**batch(), labels=labels, use_cache=False, num_items_in_batch=torch.tensor(7)).loss
        loss.backward()
        results.append((loss.detach(), {name: p.grad for name, p in each.named_parameters() if p.grad is not None}))
    assert seen == [count if is_known else labels.numel()]
    assert_same(*results)


def test_dropout_keeps_a_layer_as_it_is():
    assert fuse_layers(build(LlamaConfig(**SIZES), lora={**LORA, "lora_dropout": 0.1})) == 2 * 3 + 2


def test_layers_in_other_formats_stay_as_they_are():
    assert fuse_layers(build(LlamaConfig(**SIZES)).to(torch.bfloat16)) == 0


def test_an_adapter_that_is_switched_off_or_merged_is_not_computed():
    model, plain = build(LlamaConfig(**SIZES)), build(LlamaConfig(**SIZES))
    fuse_layers(model)
    with model.disable_adapter(), plain.disable_adapter():
        off = model(**batch(), use_cache=False).logits
        assert torch.allclose(off, plain(**batch(), use_cache=False).logits, atol=1e-5)
    tuned = model(**batch(), use_cache=False).logits
    assert not torch.allclose(tuned, off, atol=1e-2)
    model.merge_adapter()
    assert torch.allclose(model(**batch(), use_cache=False).logits, tuned, atol=1e-4)


def test_activations_that_are_computed_again_give_the_same():
    plain, model = build(LlamaConfig(**SIZES)), build(LlamaConfig(**SIZES))
    fuse_layers(model)
    model.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert_same(learn(model, batch()), learn(plain, batch()))


def test_a_norm_of_other_code_is_not_taken_for_llamas():
    model = build(LlamaConfig(**SIZES))

    class Shifted(type(model.get_base_model().model.norm)):
        def forward(self, hidden_states):
            return super().forward(hidden_states) + 1

    model.get_base_model().model.norm.__class__ = Shifted
    expected = learn(copy.deepcopy(model), batch())
    fuse_layers(model)
    assert_same(learn(model, batch()), expected)


@pytest.mark.parametrize("window", [None, 4, 13, 14])
def test_a_cpu_attends_document_by_document(window):
    config = MistralConfig(**SIZES, sliding_window=window)
    expected = learn(build(config), batch())
    register_varlen(attend_by_document)
    found = learn(build(config, VARLEN), with_boundaries(batch(), (8,)))
    assert_same(found, expected)


def test_a_model_that_does_more_than_attend_gets_its_mask_back(monkeypatch, capsys):
    model = build(LlamaConfig(**SIZES), VARLEN, lora=None)
    register_varlen(attend_by_document)
    generator = torch.get_rng_state()
    select_attention(model)
    assert needs_boundaries(model)
    assert torch.equal(torch.get_rng_state(), generator)
    assert capsys.readouterr().out == ""
    with_dropout = build(LlamaConfig(**SIZES, attention_dropout=0.1), VARLEN, lora=None)
    select_attention(with_dropout)
    assert not needs_boundaries(with_dropout)
    original = attention.AttentionInterface._global_mapping[VARLEN]
    register_varlen(lambda *args, **kwargs: attend_by_document(*args, **kwargs) * 1.1)
    try:
        select_attention(model)
    finally:
        attention.AttentionInterface.register(VARLEN, original)
    assert not needs_boundaries(model)
    assert "attention runs with a mask" in capsys.readouterr().out


def test_a_dense_batch_gives_the_logits_and_gradients_of_its_rows():
    tokens = torch.tensor([16, 14])
    register_varlen(attend_by_document)
    together = dense({**batch(), "labels": batch()["input_ids"]}, tokens)
    kept = (torch.arange(16) < tokens[:, None]).flatten()
    rows, one = build(LlamaConfig(**SIZES)), build(LlamaConfig(**SIZES), VARLEN)
    expected = rows(**batch(), use_cache=False).logits.flatten(0, 1)[kept]
    given = {name: together[name] for name in ("input_ids", "position_ids")}
    found = one(**with_boundaries(given), use_cache=False).logits[0, : len(expected)]
    assert torch.allclose(found, expected, atol=1e-5)
    for logits in (found, expected):
        logits.log_softmax(-1).square().mean().backward()
    for (name, ours), (_, theirs) in zip(one.named_parameters(), rows.named_parameters(), strict=True):
        if theirs.grad is not None:
            assert float((ours.grad - theirs.grad).norm()) <= 1e-5 * float(theirs.grad.norm()) + 1e-9, name
