"""Direct preference optimisation on packed rows: log-probabilities of documents, and the losses of pairs.

In a packed row the chosen and the rejected answer to a prompt are two neighbouring documents, the chosen one first:
the documents of a batch are numbered in order, and documents 2k and 2k + 1 are a pair.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy, logsigmoid, pad
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPast

from snaketune.train.batches import loss_places
from snaketune.train.kernels.chunked_cross_entropy import LOGITS_AT_ONCE


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """The loss of a pair: ``loss_type`` is sigmoid, ipo or hinge; ``beta`` keeps the policy near the reference."""

    beta: float
    loss_type: str
    label_smoothing: float = 0.0

    def __call__(
        self, policy: torch.Tensor, reference: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss and the reward margin of each pair, both of shape [documents / 2].

        The reward of a document is beta times the log-ratio of policy and reference (Rafailov et al. 2023,
        arXiv:2305.18290, section 4), the margin that of the chosen less that of the rejected one.

        ``sigmoid`` is their equation 7, with label smoothing that of Mitchell 2023 (a note on DPO with noisy
        preferences, "conservative DPO"): labels are wrong with this probability. ``hinge`` is that of SLiC on the
        same margin (Zhao et al. 2023, arXiv:2305.10425; Liu et al. 2023, arXiv:2309.06657). ``ipo`` is equation 17
        of Azar et al. 2023 (arXiv:2310.12036) with each log-ratio divided by the document's trained tokens, as TRL
        has it from the authors: a sum would make the target depend on the length of the answers.

        Args:
            policy: log-probabilities of the documents under the policy, in nats, shape [documents].
            reference: those under the reference.
            tokens: trained tokens of each document, shape [documents].
        """
        ratios = policy - reference
        margins = self.beta * (ratios[0::2] - ratios[1::2])
        if self.loss_type == "hinge":
            return torch.relu(1 - margins), margins
        if self.loss_type == "ipo":
            # A squared distance from a fixed target, 1 / (2 beta): a pair that is learned exerts no more force.
            means = ratios / tokens.clamp(min=1)
            return (means[0::2] - means[1::2] - 1 / (2 * self.beta)) ** 2, margins
        # logsigmoid, not log(sigmoid): the latter underflows to -inf at strongly negative margins.
        wrong = self.label_smoothing
        return -(1 - wrong) * logsigmoid(margins) - wrong * logsigmoid(-margins), margins


def locate_documents(batch: dict[str, Any], tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the positions of a batch's trained tokens and the document that each belongs to.

    Padding at the end of a row restarts positions as a document does, but is not counted as one.

    Args:
        batch: ``labels`` and ``position_ids`` of the rows, shape [rows, row_length].
        tokens: real tokens of each row, int64, shape [rows]; rows beyond these hold only padding.

    Returns:
        ``places`` (flat positions of the states that predict the tokens), ``targets`` (the tokens) and ``owners``
        (the number of the document), each of shape [trained tokens], and ``sizes``, the trained tokens of each
        document, shape [documents]; all int64.
    """
    labels = batch["labels"]
    numbers, _ = number_documents(batch, tokens)
    places = loss_places(labels)
    owners = numbers[places + 1]
    sizes = torch.bincount(owners, minlength=int(numbers[-1]) + 1)
    return {"places": places, "targets": labels.flatten()[places + 1], "owners": owners, "sizes": sizes}


def number_documents(batch: dict[str, Any], tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the document number of each token of a batch, and whether the token is real (not padding).

    Arguments as in :func:`locate_documents`; both results have shape [rows * row_length]. Padding has the number of
    the document before it.
    """
    positions = batch["position_ids"]
    filled = pad(tokens, (0, len(positions) - len(tokens)))
    is_real = torch.arange(positions.shape[1]) < filled[:, None]
    # Padding starts at position 0 as well, so real tokens are told by the count of each row, not by positions.
    begins = (positions == 0) & is_real
    return begins.flatten().cumsum(0) - 1, is_real.flatten()


def sum_by_document(log_probs: torch.Tensor, owners: torch.Tensor, documents: int) -> torch.Tensor:
    """Return the log-probability of each document, shape [documents], the sum over its trained tokens."""
    # One addition per token in a fixed order on a CPU, so the sum is the same in every run.
    return torch.zeros(documents, device=log_probs.device).index_add(0, owners, log_probs)


def install_log_probs(model: Any) -> None:
    """Make the model's forward pass return the log-probabilities of chosen tokens when it is given ``places``.

    ``model(**inputs, places=..., targets=...)`` then returns ``{"log_probs": ...}`` in nats, float32, shape [tokens].
    Logits are computed at these positions only, in chunks that the backward pass recomputes, so that memory holds one
    chunk of logits however long the rows are. Other calls go to the original forward pass. The forward pass of the
    base model itself is replaced, so everything that wraps it (adapter, autocast, hooks) still runs.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    whole = base.forward

    @functools.wraps(whole)
    def forward(*args, places=None, targets=None, **inputs):
        if places is None:
            return whole(*args, **inputs)
        inputs = {name: value for name, value in inputs.items() if value is not None}
        states = base.base_model(*args, **inputs, use_cache=False).last_hidden_state.flatten(0, 1)[places]
        # Only the selected states reach the output layer: prompts, which are most of the tokens, never get logits.
        return {"log_probs": _log_probs(base, whole, states, targets)}

    base.forward = forward


def _log_probs(base: Any, whole: Callable[..., Any], states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    # Each token's log-probability is needed before the loss of its pair is known, so gradients cannot be computed in
    # the forward pass as for the chunked cross-entropy: a chunk's logits are recomputed in the backward pass instead.
    def of_chunk(chunk: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return -cross_entropy(_logits(base, whole, chunk).float(), wanted, reduction="none")

    # The same bound on logits as the chunked cross-entropy, which the memory plan counts on.
    size = max(1, LOGITS_AT_ONCE // base.config.get_text_config().vocab_size)
    pieces = zip(states.split(size), targets.split(size), strict=True)
    return torch.cat([checkpoint(of_chunk, *piece, use_reentrant=False) for piece in pieces])


def _logits(base: Any, whole: Callable[..., Any], states: torch.Tensor) -> torch.Tensor:
    """Return the model's logits for final hidden states, shape [n, vocabulary].

    The model's own forward pass computes them, because it may scale or cap the logits after the output layer. Its
    body is replaced meanwhile by a function that returns the given states.
    """
    body = base.base_model
    own = body.__dict__.get("forward")
    body.forward = lambda *args, **inputs: BaseModelOutputWithPast(last_hidden_state=states[None])
    try:
        return whole(use_cache=False).logits[0]
    finally:
        del body.forward
        if own is not None:
            body.forward = own
