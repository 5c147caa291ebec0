"""The same sum in the logits: the tuned model, the sums before rounding and the written files on a few rows.

All is computed in float32, where right sums differ by nothing but the order of additions, whatever rounding costs.
"""

from typing import Any

import numpy as np
import torch

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.models import ModelSettings
from snaketune.evaluate.scoring import scored_chunks
from snaketune.merge.adapter import Adapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.streaming import merged_weight
from snaketune.merge.trained_model import TrainedModel

SAMPLE_ROWS = 2
SAMPLE_BYTES = 128 << 20
FLOAT32_NOISE = 1e-4  # of log-probabilities, in relation to their size; the 30 layers of SmolLM2-135M have 6e-7


class Logits:
    """Compares the log-probabilities of three models at the same positions of the first rows.

    Args:
        base: the base checkpoint.
        tuned: what was trained.
        is_streamed: whether its sums are formed weight by weight, or by PEFT.
        rows: packed rows; at most the first two are read.
        settings: how the models are read.
    """

    def __init__(
        self,
        base: Checkpoint,
        tuned: Adapter | TrainedModel,
        is_streamed: bool,
        rows: PackedRows,
        settings: ModelSettings,
    ):
        self._base, self._tuned, self._is_streamed = base, tuned, is_streamed
        self._rows, self._settings = rows, settings
        self._effect = 0.0
        self._stored: torch.Tensor | None = None
        self.sum_error: float | None = None

    def read_tuned(self, model: Any, written: Checkpoint) -> None:
        """Read the tuned model, then with the sums and the ``written`` weights in its place: it is used up by that."""
        expected = self._sample(model)
        if isinstance(self._tuned, Adapter):
            with model.disable_adapter():
                before = self._sample(model)
            self._effect = float(torch.linalg.vector_norm(expected - before))
            model = self._put_sums(model, self._tuned)
            self.sum_error = self._error(self._sample(model), expected)
        else:
            self._effect = float(torch.linalg.vector_norm(expected))
        if put_written(model, written):
            self._stored = self._sample(model)

    def file_error(self, merged: Any) -> float | None:
        """Return how far the model loaded from the files is from their weights put into the tuned model's place."""
        return None if self._stored is None else self._error(self._sample(merged), self._stored)

    def _error(self, found: torch.Tensor, expected: torch.Tensor) -> float:
        """Return the distance in relation to what tuning changed, beyond the noise of float32."""
        norm = torch.linalg.vector_norm
        off = float(norm(found - expected)) - FLOAT32_NOISE * float(norm(expected))
        if np.isnan(off):
            return off
        return 0.0 if off <= 0 else off / self._effect if self._effect else float("inf")

    @torch.no_grad()
    def _put_sums(self, tuned: Any, adapter: Adapter) -> Any:
        if not self._is_streamed:
            return tuned.merge_and_unload(safe_merge=True)
        model = tuned.unload()
        for module in adapter.modules:
            model.get_submodule(module).weight.copy_(merged_weight(self._base, adapter, module))
        return model

    def _sample(self, model: Any) -> torch.Tensor:
        """Return log-probabilities of the first positions that bear loss, float32, shape [positions, vocabulary]."""
        found, room = [], SAMPLE_BYTES
        for chunk in scored_chunks(model, self._rows, self._settings, limit=SAMPLE_ROWS):
            values = torch.log_softmax(chunk.logits, dim=1)
            values = values[: max(1, room // (4 * values.shape[1]))].cpu()
            found.append(values)
            room -= values.numel() * 4
            if room <= 0:
                break
        return torch.cat(found)


@torch.no_grad()
def put_written(model: Any, written: Checkpoint) -> bool:
    """Put the weights in the files into ``model``; False where the files call a weight of it by another name."""
    own = dict(model.named_parameters())
    if set(own) - set(written.dtypes):
        return False
    for name, weight in own.items():
        weight.copy_(written.tensor(name))
    return True
