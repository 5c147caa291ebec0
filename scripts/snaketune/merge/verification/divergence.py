"""Loss difference and KL divergence of two models per token of packed rows, each with a confidence interval."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import IO, Any

import numpy as np
import torch

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.models import ModelSettings
from snaketune.evaluate.scoring import scored_chunks

ROWS_COMPARED = 64
SPOOL_BYTES = 1 << 30
# Neighbouring tokens are not independent: this many consecutive columns of a row count as one observation.
RESAMPLED_COLUMNS = 32
NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over tokens with its 95% confidence interval; None with fewer than two spans of tokens."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """Comparison of two models, in nats per loss-bearing token.

    Attributes:
        first_loss: of the first model.
        second_loss: of the second.
        change: of the loss, second minus first.
        kl: KL(first || second), averaged over tokens.
        tokens: number of tokens that the losses are averaged over.
        kl_tokens: number of tokens, evenly spaced, that the divergence is averaged over.
    """

    first_loss: float
    second_loss: float
    change: Mean
    kl: Mean
    tokens: int
    kl_tokens: int


def kl_stride(rows: PackedRows, vocabulary: int) -> int:
    """Return the distance between positions whose log-probabilities are stored, so that these fit into 1 GiB."""
    positions = sum(int(rows.take("loss_mask", [row]).sum()) for row in range(min(ROWS_COMPARED, len(rows))))
    return max(1, ceil(positions * vocabulary * 4 / SPOOL_BYTES))


class Comparing:
    """Compares two models that are evaluated one after the other, so that memory holds one of them.

    Args:
        spool: an empty file, open for reading and writing, for the first model's log-probabilities.
        rows: packed rows; at most the first 64 are used.
        settings: how the models are run.
        stride: log-probabilities are stored at every ``stride``-th position.
    """

    def __init__(self, spool: IO[bytes], rows: PackedRows, settings: ModelSettings, stride: int):
        self._spool, self._rows, self._settings, self._stride = spool, rows, settings, stride
        self._losses = np.zeros(0)

    def read_first(self, model: Any) -> None:
        """Evaluate the first model and store its losses and log-probabilities."""
        losses = []
        for loss, _, values in self._read(model):
            losses.append(loss)
            self._spool.write(values.contiguous().numpy().tobytes())
        self._losses = np.concatenate(losses)

    def read_second(self, model: Any) -> ModelComparison:
        """Evaluate the second model and return the comparison."""
        self._spool.seek(0)
        losses, spans, kls, kl_spans, seen = [], [], [], [], 0
        for loss, span, values in self._read(model):
            stored = np.frombuffer(bytearray(self._spool.read(values.numel() * 4)), np.float32)
            expected = torch.from_numpy(stored).view(values.shape)
            # KL(p || q) = sum over the vocabulary of p (log p - log q), exact for each position: no sampling.
            kls.append((expected.exp() * (expected - values)).double().sum(dim=1).numpy())
            # The stride continues from chunk to chunk, so the chosen positions do not depend on where chunks end.
            kl_spans.append(span[-seen % self._stride :: self._stride])
            losses.append(loss)
            spans.append(span)
            seen += len(loss)
        second, kl = np.concatenate(losses), mean_with_interval(np.concatenate(kls), np.concatenate(kl_spans))
        return ModelComparison(
            first_loss=float(self._losses.mean()),
            second_loss=float(second.mean()),
            change=mean_with_interval(second - self._losses, np.concatenate(spans)),
            kl=Mean(max(0.0, kl.value), kl.interval),  # rounding can make a divergence of equal models negative
            tokens=len(second),
            kl_tokens=sum(map(len, kls)),
        )

    def _read(self, model: Any) -> Iterator[tuple[np.ndarray, np.ndarray, torch.Tensor]]:
        """Yield for each chunk the losses, their spans, and the log-probabilities at every ``stride``-th position."""
        seen = 0
        for chunk in scored_chunks(model, self._rows, self._settings, limit=ROWS_COMPARED):
            values = torch.log_softmax(chunk.logits, dim=1)
            loss = -values.gather(1, chunk.targets[:, None])[:, 0].double().cpu().numpy()
            # Row and column group in one number.
            span = chunk.rows.astype(np.int64) * (1 << 32) + chunk.columns // RESAMPLED_COLUMNS
            yield loss, span, values[-seen % self._stride :: self._stride].cpu()
            seen += len(loss)


def mean_with_interval(values: np.ndarray, spans: np.ndarray) -> Mean:
    """Return the mean of ``values`` and its 95% confidence interval, clustered by ``spans``.

    Args:
        values: one number per token, float64, shape [n].
        spans: the span that each token belongs to, int64, shape [n].
    """
    mean = float(values.mean())
    _, group = np.unique(spans, return_inverse=True)
    count = int(group.max()) + 1
    if count < 2:
        return Mean(mean, None)
    # The linearised (delta-method) variance of a ratio of sums over clusters: treating tokens as independent would
    # give intervals that are too narrow. Cochran 1977, "Sampling Techniques", chapter 6.
    rest = np.bincount(group, weights=values - mean, minlength=count)
    error = float(np.sqrt((rest**2).sum() * count / (count - 1))) / len(values)
    return Mean(mean, (mean - NORMAL_95 * error, mean + NORMAL_95 * error))
