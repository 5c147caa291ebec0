"""Check of a merge in the logits: tuned model, merged weights before rounding, and written files on a few rows.

Everything is computed in float32, where correct merges differ only by the order of additions, however much rounding to
the files' dtype costs.
"""

from typing import Any

import numpy as np
import torch

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.models import ModelSettings
from snaketune.evaluate.scoring import scored_chunks
from snaketune.merge.adapter import LoadedAdapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.streaming import merged_weight
from snaketune.merge.trained_model import TrainedModel

SAMPLE_ROWS = 2
SAMPLED_LOGIT_BYTES = 128 << 20
FLOAT32_NOISE = 1e-4  # relative error of log-probabilities in float32; measured for SmolLM2-135M (30 layers): 6e-7


class Logits:
    """Compares the log-probabilities of three models at the same positions of the first rows.

    Args:
        base: the base checkpoint.
        tuned: the trained adapter or model.
        is_streamed: whether the merge is computed weight by weight, or by PEFT.
        rows: packed rows; at most the first two are used.
        settings: how the models are run.
    """

    def __init__(
        self,
        base: Checkpoint,
        tuned: LoadedAdapter | TrainedModel,
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
        """Evaluate the tuned model, then with its merged and its ``written`` weights; ``model`` is overwritten."""
        expected = self._sample(model)
        if isinstance(self._tuned, LoadedAdapter):
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
        """Return the error of the model as loaded from the files against their weights in the tuned model."""
        return None if self._stored is None else self._error(self._sample(merged), self._stored)

    def _error(self, found: torch.Tensor, expected: torch.Tensor) -> float:
        """Return the distance relative to the change by tuning, beyond the noise of float32."""
        # Relative to the change, not to the log-probabilities: a short training changes little, and an adapter merged
        # with a wrong factor would go unnoticed beside the base model's share.
        norm = torch.linalg.vector_norm
        # What float32 alone may cause is subtracted, so that a correct merge gives 0 even after a tiny change.
        off = float(norm(found - expected)) - FLOAT32_NOISE * float(norm(expected))
        if np.isnan(off):
            return off
        return 0.0 if off <= 0 else off / self._effect if self._effect else float("inf")

    @torch.no_grad()
    def _put_sums(self, tuned: Any, adapter: LoadedAdapter) -> Any:
        if not self._is_streamed:
            return tuned.merge_and_unload(safe_merge=True)
        model = tuned.unload()
        for module in adapter.modules:
            model.get_submodule(module).weight.copy_(merged_weight(self._base, adapter, module))
        return model

    def _sample(self, model: Any) -> torch.Tensor:
        """Return log-probabilities at the first loss-bearing positions, float32, shape [positions, vocabulary]."""
        found, room = [], SAMPLED_LOGIT_BYTES
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
    """Load the weights of the files into ``model``; return False if the files name one of its weights differently."""
    own = dict(model.named_parameters())
    if set(own) - set(written.dtypes):
        return False
    for name, weight in own.items():
        weight.copy_(written.tensor(name))
    return True
