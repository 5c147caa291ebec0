"""The chunked loss is the usual loss: value, gradients, weighting, and logits where they are asked for."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula
from transformers import CohereConfig, CohereForCausalLM, LlamaConfig, LlamaForCausalLM

from snaketune.train.batches import IGNORED, loss_places
from snaketune.train.kernels.chunked_cross_entropy import (
    chunked_loss_obstacle,
    install_chunked_loss,
    linear_cross_entropy,
)

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def operands(dtype, tokens=100, width=32, vocabulary=501):
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, width), torch.randn(vocabulary, width) / 6
    targets = torch.randint(0, vocabulary, (tokens,))
    return [part.to(dtype) for part in (hidden, weight, torch.randn(vocabulary))], targets


def relative(one, other):
    return float((one.detach().float() - other.detach().float()).norm() / other.detach().float().norm())


def loss_and_gradients(loss, parts):
    parts = [part.clone().requires_grad_() for part in parts]
    total = loss(*parts) / 7
    total.backward()
    return [total.detach(), *(part.grad for part in parts)]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("chunk", [1, 33, 1000])
def test_loss_and_all_gradients_equal_those_of_cross_entropy(dtype, limit, chunk):
    parts, targets = operands(dtype)
    usual = loss_and_gradients(
        lambda h, w, b: functional.cross_entropy(functional.linear(h, w, b).float(), targets, reduction="sum"), parts
    )
    chunked = loss_and_gradients(lambda h, w, b: linear_cross_entropy(h, w, targets, b, chunk=chunk), parts)
    assert relative(chunked[0], usual[0]) < 1e-6
    assert all(relative(*pair) < limit for pair in zip(chunked, usual, strict=True))
    assert [part.dtype for part in chunked[1:]] == [dtype] * 3


def test_a_target_whose_probability_underflows_has_a_finite_loss():
    parts, targets = operands(torch.float32)
    parts[0] *= 100
    usual = functional.cross_entropy(functional.linear(*parts), targets, reduction="sum")
    assert float(functional.linear(*parts).softmax(-1).gather(-1, targets[:, None]).min()) == 0
    assert relative(linear_cross_entropy(*parts[:2], targets, parts[2]), usual) < 1e-6


def test_autocast_multiplies_in_its_format_and_sums_in_float32():
    (hidden, weight, _), targets = operands(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden.requires_grad_(), weight, targets)
    halves = functional.linear(hidden.bfloat16(), weight.bfloat16()).float()
    assert loss.dtype == torch.float32
    assert relative(loss, functional.cross_entropy(halves, targets, reduction="sum")) < 1e-6
    loss.backward()
    assert hidden.grad.dtype == torch.float32


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes, in elements."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


class Together(TorchDispatchMode):
    """Sums the blocks of memory of at least ``elements`` numbers that exist at the same time, at most, in bytes."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.blocks, self.most = elements, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.numel() >= self.elements:
                storage = StorageWeakRef(leaf.untyped_storage())
                self.blocks[storage.cdata] = (storage, leaf.untyped_storage().nbytes())
        self.blocks = {key: block for key, block in self.blocks.items() if not block[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.blocks.values()))
        return out


def largest_and_saved(tokens, loss):
    (hidden, weight, _), targets = operands(torch.float32, tokens=tokens, width=4, vocabulary=1000)
    saved = []
    with (
        Largest() as seen,
        torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x),
    ):
        loss(hidden.requires_grad_(), weight, targets).backward()
    return seen.elements, sum(saved)


@pytest.mark.parametrize(("dtype", "per_logit"), [(torch.float32, 4), (torch.bfloat16, 8), (torch.float16, 8)])
def test_a_chunk_takes_what_the_plan_says_and_is_freed_before_the_next_one_is_computed(dtype, per_logit):
    # In 16 bits: the logits, their float32 shares and the gradient; in float32 all of them are one block.
    (hidden, weight, _), targets = operands(dtype, tokens=64, width=4, vocabulary=1000)
    with Together(16 * 1000) as seen:
        linear_cross_entropy(hidden.requires_grad_(), weight, targets, chunk=16).backward()
    assert seen.most == per_logit * 16 * 1000


def usual_loss(hidden, weight, targets):
    return functional.cross_entropy(hidden @ weight.t(), targets, reduction="sum")


def test_memory_does_not_grow_with_the_tokens():
    chunked = [largest_and_saved(n, lambda *parts: linear_cross_entropy(*parts, chunk=16)) for n in (100, 800)]
    assert chunked[0][0] == chunked[1][0] == 16 * 1000
    assert [kept for _, kept in chunked] == [100 * 4, 800 * 4]  # the hidden states' gradient, never logits
    usual = [largest_and_saved(n, usual_loss) for n in (100, 800)]
    assert [largest for largest, _ in usual] == [100 * 1000, 800 * 1000]


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def operations(states, weight, *rest, out_shape=None, **options):
    return 2 * states[0] * states[1] * weight[0]


def test_a_frozen_output_layer_costs_no_weight_gradient():
    def products(is_trained):
        (hidden, weight, _), targets = operands(torch.float32, tokens=8, width=64, vocabulary=1000)
        with FlopCounterMode(display=False) as counter:
            linear_cross_entropy(hidden.requires_grad_(), weight.requires_grad_(is_trained), targets).backward()
        return counter.get_total_flops() / (2 * 8 * 64 * 1000)

    assert (products(False), products(True)) == (2, 3)


def llama(**keys):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=97, **SIZES, **keys))


def with_adapter(base):
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def batch():
    torch.manual_seed(3)
    ids = torch.randint(0, 97, (2, 24))
    labels = ids.masked_fill(torch.rand(2, 24) < 0.4, IGNORED)
    return {"input_ids": ids, "labels": labels, "use_cache": False}


def gradients(model, inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    return loss.detach(), found


@pytest.mark.parametrize("wrap", [with_adapter, lambda base: base], ids=["adapter", "full"])
@pytest.mark.parametrize("extra", [{}, {"num_items_in_batch": torch.tensor(11)}], ids=["mean", "weighted"])
def test_a_model_gives_the_same_loss_and_gradients_with_it(wrap, extra):
    model, inputs = wrap(llama()), batch() | extra
    loss, found = gradients(model, inputs)
    assert install_chunked_loss(model)
    for more in ({}, {"loss_places": loss_places(inputs["labels"])}):
        own_loss, own = gradients(model, inputs | more)
        assert relative(own_loss, loss) < 1e-6
        assert own.keys() == found.keys()
        assert all(relative(own[name], found[name]) < 1e-5 for name in found)


def test_tied_weights_get_the_gradients_of_both_ends():
    model = llama(tie_word_embeddings=True)
    _, found = gradients(model, batch())
    assert install_chunked_loss(model)
    _, own = gradients(model, batch())
    assert relative(own["model.embed_tokens.weight"], found["model.embed_tokens.weight"]) < 1e-5


def test_without_labels_the_model_answers_as_before():
    model, inputs = with_adapter(llama()).eval(), batch()
    labels = inputs.pop("labels")
    logits = model(**inputs).logits
    written = model.generate(inputs["input_ids"], max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert install_chunked_loss(model)
    assert torch.equal(model(**inputs).logits, logits)
    again = model.generate(inputs["input_ids"], max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(again, written)
    assert model(**inputs, labels=labels).logits is None


def test_a_batch_without_loss_bearing_tokens_costs_nothing_and_breaks_nothing():
    model, inputs = with_adapter(llama()), batch()
    assert install_chunked_loss(model)
    inputs["labels"].fill_(IGNORED)
    loss, found = gradients(model, inputs | {"num_items_in_batch": torch.tensor(5)})
    assert float(loss) == 0
    assert all(float(gradient.abs().max()) == 0 for gradient in found.values())


class Shifted(LlamaForCausalLM):
    """A model whose logits are not just hidden states times a matrix, and whose configuration does not say so."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 1.5
        return out


class Regularised(LlamaForCausalLM):
    """A model whose loss has a term of its own."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.loss = None if out.loss is None else out.loss + 0.1
        return out


def unsuitable():
    small = LlamaConfig(vocab_size=97, **SIZES)
    head_too = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    saved = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    cohere = CohereConfig(vocab_size=97, eos_token_id=1, bos_token_id=2, logit_scale=0.5, **SIZES)
    return {
        "modifies its logits": CohereForCausalLM(cohere),
        "more than one matrix product": Shifted(small),
        "the model": Regularised(small),
        "rather than a plain linear layer": get_peft_model(llama(), head_too),
        "ModulesToSaveWrapper": get_peft_model(llama(), saved),
    }


@pytest.mark.parametrize(
    "words", ["modifies its logits", "more than one matrix product", "the model", "rather than a plain", "ToSave"]
)
def test_a_model_that_does_more_keeps_its_own_loss_and_says_why(words, capsys):
    model = next(model for name, model in unsuitable().items() if words in name)
    inputs = batch()
    loss = model.eval()(**inputs).loss
    assert words in chunked_loss_obstacle(model)
    assert not install_chunked_loss(model)
    assert words in capsys.readouterr().out
    assert torch.equal(model(**inputs).loss, loss)
