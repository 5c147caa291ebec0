"""Logits at loss-bearing positions of packed rows, in chunks whose memory does not depend on the data.

Documents in a row are separated by the restarts of position ids alone. transformers honours these only without an
attention mask and a KV cache, so neither is ever passed here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.models import ModelSettings
from snaketune.model.architecture import body_of
from snaketune.train.batches import IGNORED, collate, with_boundaries

SCORED_AT_ONCE = 8192
LOGIT_BYTES = 128 << 20  # of one chunk of float32 logits
PROBE_TOKENS = 4
PROBE_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class PositionChunk:
    """Some loss-bearing positions of one batch.

    Attributes:
        rows: row in the file of each position, int64, shape [n].
        columns: position of the predicted token in its row, int64, shape [n].
        targets: the correct token, int64, shape [n].
        logits: the model's logits, float32, shape [n, vocabulary].
    """

    rows: np.ndarray
    columns: np.ndarray
    targets: torch.Tensor
    logits: torch.Tensor


def scored_chunks(
    model: Any, rows: PackedRows, settings: ModelSettings, limit: int | None = None
) -> Iterator[PositionChunk]:
    """Yield every loss-bearing position of the first ``limit`` rows (of all without a limit) with its logits.

    The order depends on the rows alone: two models see the same positions in the same chunks.
    """
    reader = _Reader(model, settings)
    for indices in row_batches(rows.tokens[:limit], rows.row_length):
        batch = _trimmed(collate(rows, indices), int(rows.tokens[indices].max(initial=1)))
        # The output at one position predicts the next token, so labels are shifted by one.
        places = (batch["labels"][:, 1:] != IGNORED).nonzero()
        if not len(places):
            continue
        targets = batch["labels"][places[:, 0], places[:, 1] + 1]
        states = reader.states(batch, places)
        # 4 bytes per float32 logit.
        step = max(1, LOGIT_BYTES // (4 * reader.vocabulary))
        for start in range(0, len(places), step):
            part = slice(start, start + step)
            at = places[part].numpy()
            logits = reader.project(states[part]).float()
            yield PositionChunk(np.asarray(indices)[at[:, 0]], at[:, 1] + 1, targets[part].to(logits.device), logits)


def row_batches(tokens: np.ndarray, row_length: int) -> Iterator[list[int]]:
    """Yield row numbers in batches of at most 8192 tokens; rows of similar length share a batch to save padding."""
    # The longest rows first: if memory is short, it runs out in the first batch and not after an hour.
    order = np.argsort(tokens, kind="stable")[::-1]
    size = max(1, SCORED_AT_ONCE // row_length)
    for start in range(0, len(order), size):
        yield order[start : start + size].tolist()


def _trimmed(batch: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    return {name: values[:, :width] for name, values in batch.items()}


class _Reader:
    """A model in two parts: hidden states at selected positions, and the output layer that computes their logits."""

    def __init__(self, model: Any, settings: ModelSettings):
        self._model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._settings = settings
        self._device = self._model.device
        self.vocabulary, self._is_plain = self._probe()

    @torch.no_grad()
    def states(self, batch: dict[str, torch.Tensor], places: torch.Tensor) -> torch.Tensor:
        """Return the inputs of :meth:`project` at ``places`` (row, column) of the batch, shape [n, width]."""
        at = places.to(self._device)
        if self._is_plain:
            hidden = body_of(self._model)(**self._inputs(batch)).last_hidden_state
            return hidden[at[:, 0], at[:, 1]]
        return torch.cat([self._own_logits(batch, row, at) for row in range(len(batch["labels"]))])

    @torch.no_grad()
    def project(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of some states, shape [n, vocabulary]."""
        return self._model.get_output_embeddings()(states) if self._is_plain else states

    def _inputs(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        inputs: dict[str, Any] = {name: values for name, values in batch.items() if name != "labels"}
        inputs = with_boundaries(inputs) if self._settings.uses_flash else inputs
        moved = {name: v.to(self._device) if isinstance(v, torch.Tensor) else v for name, v in inputs.items()}
        return {**moved, "use_cache": False}

    def _own_logits(self, batch: dict[str, torch.Tensor], row: int, at: torch.Tensor) -> torch.Tensor:
        columns = at[at[:, 0] == row, 1]
        single = {name: values[row : row + 1] for name, values in batch.items()}
        return self._model(**self._inputs(single)).logits[0, columns]

    @torch.no_grad()
    def _probe(self) -> tuple[int, bool]:
        """Return the size of the vocabulary and whether hidden states times the output layer are the logits.

        For models that scale or cap them afterwards, the model's own logits are taken, row by row.
        """
        ids = torch.arange(PROBE_TOKENS, device=self._device)[None]
        own = self._model(input_ids=ids, use_cache=False).logits
        # Some architectures scale or cap logits (Gemma 2's soft cap, Cohere's logit_scale). Comparing a few tokens
        # notices any of them, known or not.
        hidden = body_of(self._model)(input_ids=ids, use_cache=False).last_hidden_state
        cut = self._model.get_output_embeddings()(hidden)
        is_same = own.shape == cut.shape and torch.allclose(own, cut, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE)
        return own.shape[-1], is_same
