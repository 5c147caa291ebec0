"""Measures one case in the calling process: a short training, tokenising at the start, or reading from a disk."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

from snaketune.ablate.layouts import SampleLayout
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.settings.operational import Operational
from snaketune.settings.training_slices import TrainingSlice

WARM_UP_SHARE = 0.2
CASE_REPEATS = 3
"""Repeats within a case; rounds repeat the whole case."""
FEWEST_STEPS = 8
COUNTED_FACTORS = ("attention", "chunked_loss", "checkpoint_every", "computes_padding")
"""The engine's decisions that determine FLOPs."""
TOKENISING_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class TrainingCase:
    """A short training: sections of the configuration, operational settings, rows, and how many tokens it sees."""

    model: str
    layout: SampleLayout
    cfg: TrainingSlice
    settings: Operational
    tokens: float
    scratch: str
    is_cpu: bool

    @property
    def steps(self) -> int:
        """Return the number of optimizer steps that comes closest to a number of tokens."""
        train = self.cfg["train"]
        rows = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
        return max(FEWEST_STEPS, round(self.tokens / (rows * self.layout.tokens_per_row)))


class Queue:
    """Measures from now on how long this thread waits for a CPU that other programs use (Linux; elsewhere unknown)."""

    FILE = Path("/proc/self/schedstat")

    def __init__(self) -> None:
        self._began, self._delay = time.monotonic(), self._nanoseconds()

    def _nanoseconds(self) -> int:
        return int(self.FILE.read_text().split()[1]) if self.FILE.is_file() else 0

    def share(self) -> float:
        """Return the fraction of the time since creation that was spent waiting; 0 if unknown."""
        passed = time.monotonic() - self._began
        return min(0.99, (self._nanoseconds() - self._delay) / 1e9 / passed) if passed else 0.0


def own_rate(rates: Sequence[float], waited: float) -> float:
    """Return the throughput over all repeats, corrected for CPU time that other programs used.

    On a shared CPU wall time would measure the other programs as well. The scheduler reports the time that a thread was
    runnable but waiting; on an idle machine it is about 0 and the throughput is that of the wall clock.

    Args:
        rates: of repeats with as many tokens each, by the wall clock.
        waited: share of the time spent waiting for a processor.
    """
    return harmonic_mean(rates) / (1 - waited)


def measure_training(case: TrainingCase) -> dict[str, Any]:
    """Train for a short time and return what was measured.

    Raises:
        ConfigError: if this machine or model cannot train so.
        TrainingError: if memory runs out or a value is not finite.
    """
    from snaketune.train.probe.probing import ProbeInputs, probe

    rows, held_out = (PackedRows(Path(case.layout.folder) / name) for name in ("train.arrow", "eval.arrow"))
    inputs = ProbeInputs(Path(case.model), rows, held_out, Path(case.scratch))
    each = max(1, int(case.steps * (1 - WARM_UP_SHARE)) // CASE_REPEATS)
    warm_up = case.steps - each * CASE_REPEATS
    queue = Queue()
    cfg = case.cfg | {"train": case.cfg["train"] | {"keeps_padding": not case.layout.is_packed}}
    found = asdict(probe(inputs, cfg, case.settings, steps=each, warmup_steps=warm_up, repeats=CASE_REPEATS))
    waited = queue.share()
    kept = ("peak_memory_bytes", "save_seconds", "load_seconds", "warmup_seconds", "steps", "tokens", "held_out_loss")
    train = case.cfg["train"]
    return {
        **{name: found[name] for name in kept},
        "tokens_per_second": own_rate(found["rates"], waited if case.is_cpu else 0.0),
        "waited_share": waited,
        "engine": {name: found["engine"][name] for name in COUNTED_FACTORS},
        "rows": train["per_device_train_batch_size"],
        "accumulation": train["gradient_accumulation_steps"],
    }


def measure_tokenising(records: str, recipe: Mapping[str, Any], rows: str) -> dict[str, Any]:
    """Time tokenising the first records, as a script does at its start, against opening the memory-mapped rows.

    Args:
        records: the training records.
        recipe: fields of :class:`snaketune.data.tokens.chunk_tokenizing.Recipe`.
        rows: the packed rows of the run.
    """
    from snaketune.data.tokens.chunk_tokenizing import ChunkTokenizer, Recipe
    from snaketune.data.tokens.chunks import chunks_of

    began = time.perf_counter()
    tokenizer = ChunkTokenizer(Recipe(**recipe), "train")
    started, tokens = time.perf_counter(), 0
    for chunk in chunks_of(records):
        tokens += tokenizer(chunk).tokens
        if time.perf_counter() - started > TOKENISING_SECONDS:
            break
    done = time.perf_counter()
    PackedRows(rows)
    opened = time.perf_counter()
    return {
        "start_seconds": started - began,
        "tokens_per_second": tokens / (done - started),
        "open_seconds": opened - done,
    }


def measure_reading(sources: list[str], copies: list[str]) -> dict[str, Any]:
    """Read the beginning of each file from its disk; rates in bytes per second, over all files of each kind."""
    from snaketune.storage.disks import read_rate

    def rate(paths: list[str]) -> float:
        sizes = [Path(path).stat().st_size for path in paths]
        return sum(sizes) / sum(size / read_rate(path) for path, size in zip(paths, sizes, strict=True) if size)

    return {"source_bytes_per_second": rate(sources), "copy_bytes_per_second": rate(copies)}
