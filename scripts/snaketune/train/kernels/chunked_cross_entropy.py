"""Cross-entropy computed chunk by chunk: the full logits never exist, so memory does not grow with their number.

The logits of 8,192 tokens over a vocabulary of 128,000 take 4 GB in float32, and an ordinary loss keeps several copies.
Here the tokens that carry loss go through the output layer a chunk at a time. The gradient with respect to the hidden
states is computed in the forward pass and only scaled in the backward pass: nothing is recomputed, and a frozen output
layer costs no weight gradient.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from snaketune.model.architecture import body_of
from snaketune.train.batches import IGNORED, loss_places
from snaketune.train.device import is_exact
from snaketune.train.kernels.attention import given_to
from snaketune.train.kernels.last_layer import is_trimmed
from snaketune.train.kernels.matrix_products import product

# Logits held at a time: 2^26 are 512 tokens of a vocabulary of 128,000, 0.5 GB with their bfloat16 copies. A CPU is
# faster with fewer (measured: 15% at vocabularies of 4,096 and 32,000), until the products have too few rows: 8 million
# are 32 MB, the largest block that glibc keeps for the next chunk, and 162 tokens of a vocabulary of 49,152.
LOGITS_AT_ONCE, LOGITS_AT_ONCE_CPU = 1 << 26, 8_000_000
# Settings under which the logits are not just hidden states times a matrix (Gemma, Cohere, Granite, Falcon-H1).
CHANGED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
TOLERANCE_FLOAT32, TOLERANCE_HALF = 1e-4, 2e-2


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over tokens of the cross-entropy of ``hidden @ weight.T + bias``; the forward pass computes the gradients."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, chunk: int, with_gradient: bool):
        wanted = [bool(with_gradient and needed) for needed in ctx.needs_input_grad[:3]]
        # One loss per token, summed at the end, so that the order of summation does not depend on the chunks.
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wanted[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wanted[2] else None
        # The loss is a sum over tokens, so the gradient with respect to a chunk's logits (softmax - one-hot) depends on
        # that chunk alone. It is propagated to the hidden states right away and the logits are freed; an ordinary loss
        # would keep all of them. The upstream gradient is a scalar, which the backward pass multiplies in.
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            losses[part], slope = _losses_and_slope(product(hidden[part], weight, bias), targets[part], any(wanted))
            if slope is None:
                continue
            if grad_hidden is not None:
                grad_hidden[part] = product(slope, weight.t())
            if grad_weight is not None:
                # Summed over the chunks in float32: in 16 bits the later chunks would be rounded away.
                grad_weight += slope.t() @ hidden[part]
            if grad_bias is not None:
                grad_bias += slope.sum(0, dtype=torch.float32)
            # Otherwise it would be held while the next chunk's logits are computed.
            del slope
        kept = (grad_hidden, _as(grad_weight, weight), _as(grad_bias, bias))
        ctx.save_for_backward(*kept)
        return losses.sum()

    @staticmethod
    def backward(ctx, *upstream):
        # Computing the gradients in the forward pass is possible because the loss is the root of the graph: its own
        # gradient is one number, known only here, by which all of them scale.
        scaled = (None if part is None else part * upstream[0].to(part.dtype) for part in ctx.saved_tensors)
        return *scaled, None, None, None


def _losses_and_slope(
    logits: torch.Tensor, targets: torch.Tensor, with_slope: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the tokens' losses and d loss / d logits = softmax - one-hot; float32 ``logits`` are overwritten with it.

    In float32: a bfloat16 sum over 100,000 exponentials would drop the small terms.
    """
    chosen = targets[:, None]
    # The same tensor in float32. `log_softmax` with a dtype would hold both a copy in float32 and its result.
    wide = logits.float()
    most, own = wide.amax(-1), wide.gather(-1, chosen).squeeze(-1)
    shares = torch.softmax(wide, -1, out=wide)
    # The largest share is exp(0) over the sum of exponentials, so that its logarithm is that of their sum, negated: it
    # cannot underflow, which the target's own share can.
    losses = most - own - shares.amax(-1).log()
    if not with_slope:
        return losses, None
    return losses, shares.scatter_add_(-1, chosen, shares.new_full(chosen.shape, -1.0)).to(logits.dtype)


def _as(gradient: torch.Tensor | None, like: torch.Tensor | None) -> torch.Tensor | None:
    return None if gradient is None or like is None else gradient.to(like.dtype)


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """Return the sum of the tokens' negative log-likelihoods, in nats, float32.

    Args:
        hidden: hidden states at the positions that carry loss, shape [tokens, width].
        weight: of the output layer, shape [vocabulary, width].
        targets: the token to predict from each state, int64, shape [tokens].
        bias: of the output layer, shape [vocabulary].
        chunk: tokens whose logits exist at the same time; by default as many as give 2^26 logits (8 million on a CPU).
    """
    dtype = _product_dtype(hidden, weight)
    bias = None if bias is None else bias.to(dtype)
    at_once = LOGITS_AT_ONCE_CPU if hidden.device.type == "cpu" else LOGITS_AT_ONCE
    size = chunk or max(1, at_once // len(weight))
    # The dtypes are set above; autocast would also cast the float32 sums inside.
    with torch.autocast(hidden.device.type, enabled=False):
        return _LinearCrossEntropy.apply(
            hidden.to(dtype), weight.to(dtype), bias, targets, size, torch.is_grad_enabled()
        )


def _product_dtype(hidden: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def install_chunked_loss(model: Any) -> bool:
    """Install the chunked loss as the forward pass of the causal language model, also under PEFT.

    It replaces the ``forward`` of the module itself, so hooks around the module (FSDP2's) still run. Without labels
    the model behaves as before: evaluation and generation get their logits. Prints the reason if it cannot be used.

    Returns:
        Whether it is installed.
    """
    obstacle = chunked_loss_obstacle(model)
    if obstacle:
        print(f"The loss computes full logits: {obstacle}.", flush=True)
        return False
    put_chunked_loss(model)
    return True


def put_chunked_loss(model: Any) -> None:
    """Install the chunked loss in a model for which :func:`chunked_loss_obstacle` returned None."""
    base = _causal_model(model)
    head = base.get_output_embeddings()
    head.forward = _forward_with_loss(head, head.forward)
    base.forward = _forward_with_chunks(base, base.forward, head)


def chunked_loss_obstacle(model: Any) -> str | None:
    """Return why the chunked loss cannot replace the model's own, or None; both are compared on a few tokens.

    Call it under the mixed precision of training: attention kernels for packed rows take 16-bit inputs only.
    """
    base = _causal_model(model)
    head = base.get_output_embeddings()
    # The exact class: a subclass (quantised, or wrapped by an adapter) may compute something else.
    if type(head) is not torch.nn.Linear:
        return f"the output layer is a {type(head).__name__} rather than a plain linear layer"
    settings = base.config.get_text_config()
    changed = [name for name in CHANGED_LOGITS if getattr(settings, name, None) not in (None, 1, 1.0)]
    if changed:
        return f"the model modifies its logits ({changed[0]})"
    # Mixture-of-experts models add a load-balancing term to their loss, which the hidden states alone do not determine.
    if getattr(settings, "output_router_logits", False):
        return "the model adds a router loss"
    return _difference(base)


def _causal_model(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def _difference(base: Any) -> str | None:
    """Return how the chunked loss differs from the model's own on two short rows, or None if they agree."""
    was_training = base.training
    base.eval()
    batch = _sample(base)
    own = base(**batch, use_cache=False)
    loss_of = _forward_with_loss(base.get_output_embeddings(), base.get_output_embeddings().forward)
    loss = _forward_with_chunks(base, base.forward, loss_of)(**batch, use_cache=False).loss
    hidden = body_of(base)(**{k: v for k, v in batch.items() if k != "labels"}, use_cache=False).last_hidden_state
    logits = base.get_output_embeddings()(hidden)
    base.train(was_training)
    limit = TOLERANCE_FLOAT32 if is_exact(hidden) else TOLERANCE_HALF
    if own.logits.shape != logits.shape or not _near(own.logits, logits, limit):
        return "the model computes its logits by more than one matrix product"
    return None if _near(own.loss, loss, limit) else f"it gives {float(loss):.6f} and the model {float(own.loss):.6f}"


def _near(own: torch.Tensor, ours: torch.Tensor, limit: float) -> bool:
    return bool((own.float() - ours.float()).abs().max() <= limit * own.float().abs().max())


def _sample(base: Any, length: int = 16) -> dict[str, Any]:
    vocabulary = base.config.get_text_config().vocab_size
    # Fixed tokens instead of random ones: the check must not draw from the generator of the training.
    ids = (torch.arange(2 * length).view(2, length) * 11 + 5) % vocabulary
    labels = ids.clone()
    # Some masked positions, so that a model that ignores the mask or averages differently is found out.
    labels[:, : length // 4] = IGNORED
    positions = torch.arange(length).repeat(2, 1)
    return given_to(base, {"input_ids": ids, "labels": labels, "position_ids": positions})


def _forward_with_loss(head: torch.nn.Linear, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward pass of the output layer that returns the summed loss instead of logits when given targets.

    The loss is computed inside the layer's own call because its weights may be sharded: the layer's hooks gather them.
    """

    def forward(states: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        if targets is None:
            return original(states)
        return linear_cross_entropy(states, head.weight, targets, head.bias)

    return forward


def _forward_with_chunks(base: Any, original: Callable[..., Any], loss_of: Callable[..., Any]) -> Callable[..., Any]:
    trimmed = is_trimmed(base)

    # Trainer inspects the signature for num_items_in_batch, and generate for the inputs: hence functools.wraps.
    @functools.wraps(original)
    def forward(*args, labels=None, shift_labels=None, loss_places=None, num_items_in_batch=None, **kwargs):
        if labels is None and shift_labels is None:
            return original(*args, **kwargs)
        # Arguments of the replaced forward pass that only concern logits and the form of its result.
        for unused in ("logits_to_keep", "return_dict"):
            kwargs.pop(unused, None)
        places, targets = _places_and_targets(labels, shift_labels, loss_places)
        if trimmed:
            states = body_of(base)(*args, loss_places=places, **kwargs).last_hidden_state[0]
        else:
            hidden = body_of(base)(*args, **kwargs).last_hidden_state
            states = hidden.flatten(0, 1).index_select(0, places.to(hidden.device))
        total = loss_of(states, targets=targets.to(states.device))
        return CausalLMOutputWithPast(
            loss=total / (max(1, len(targets)) if num_items_in_batch is None else num_items_in_batch)
        )

    return forward


def _places_and_targets(labels, shift_labels, places) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the flat positions that carry loss and the tokens to predict from them, int64, shape [n].

    Positions that come with the batch avoid a GPU synchronisation: ``nonzero`` makes the host wait for its output size.
    """
    if shift_labels is not None:
        flat = shift_labels.reshape(-1)
        places = torch.nonzero(flat != IGNORED).flatten()
        return places, flat.index_select(0, places)
    places = loss_places(labels) if places is None else places
    return places, labels.reshape(-1).index_select(0, places + 1)
