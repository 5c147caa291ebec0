"""Whether documents of a batch may share their common prefixes in a model: their states must not differ otherwise."""

from typing import Any

import torch

from snaketune.model.architecture import body_of
from snaketune.train.batches import IGNORED, dense, with_boundaries
from snaketune.train.device import is_exact
from snaketune.train.kernels.attention import ATTENTION_TOLERANCE_FLOAT32, ATTENTION_TOLERANCE_HALF, VARLEN
from snaketune.train.shared_prefixes import LEAST_SAVED

# Positions of the documents of the check.
FIRST, SECOND = torch.arange(LEAST_SAVED + 3), torch.arange(LEAST_SAVED + 5)


def can_share_prefixes(model: Any, row_length: int) -> bool:
    """Tell whether a prefix that is computed once gives each document the states of its own one.

    Not so with dropout, which is drawn for each document, with a loss of the model's own that counts tokens (a
    router's), and in windows that cut documents, where the tokens of a prefix are seen by some that follow and not by
    others. Beyond that, states with and without sharing are compared on two short documents in training mode. Call it
    under the mixed precision of training.

    Args:
        model: with its adapter, on a CPU.
        row_length: most tokens of a document.
    """
    if model.config._attn_implementation != VARLEN or _draws(model):
        return False
    settings = model.config.get_text_config()
    window = getattr(settings, "sliding_window", None)
    if getattr(settings, "output_router_logits", False) or (window and window < max(row_length, len(SECOND))):
        return False
    apart, shared = _states(model)
    limit = ATTENTION_TOLERANCE_FLOAT32 if is_exact(apart) else ATTENTION_TOLERANCE_HALF
    if bool(((apart - shared).norm(dim=-1) <= limit * apart.norm(dim=-1)).all()):
        return True
    print("Note: documents share no prefixes, because sharing would change this model's results.", flush=True)
    return False


def _draws(model: torch.nn.Module) -> bool:
    return any(isinstance(part, torch.nn.modules.dropout._DropoutNd) and part.p > 0 for part in model.modules())


@torch.no_grad()
def _states(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states of two documents that begin alike, computed apart and shared, float, shape [tokens, width].

    Both leave out the prefix of the second document. Training mode shows dropout that is not a layer of its own.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    rows, tokens = _sample(base.config.get_text_config().vocab_size)
    was_training = model.training
    model.train()
    with torch.random.fork_rng([]):
        apart = _last_states(base, with_boundaries(dense(rows, tokens)))
        shared = _last_states(base, dense(rows, tokens, shares_prefixes=True))
    model.train(was_training)
    first, total = len(FIRST), int(tokens)
    own = [*range(first), *range(first + LEAST_SAVED, total)]
    return apart[own], shared[: len(own)]


def _sample(vocabulary: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return a row of two documents, of which only the common prefix is not trained, and its tokens."""
    # Fixed tokens instead of random ones: the check must not draw from the generator of the training.
    ids = torch.cat([FIRST * 7 + 3, SECOND * 7 + 3 + (SECOND >= LEAST_SAVED)]) % vocabulary
    positions = torch.cat([FIRST, SECOND])
    labels = ids.where(positions > LEAST_SAVED, IGNORED)
    rows = {"input_ids": ids, "labels": labels, "position_ids": positions}
    return {name: values[None] for name, values in rows.items()}, torch.tensor([len(ids)])


def _last_states(base: Any, batch: dict[str, Any]) -> torch.Tensor:
    given = {name: part for name, part in batch.items() if name != "labels"}
    states: torch.Tensor = body_of(base)(**given, use_cache=False).last_hidden_state[0]
    return states
