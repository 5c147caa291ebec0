"""Trainer settings of the preference methods, and a cache of reference log-probabilities shared between runs."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from snaketune.core.atomic import write_bytes
from snaketune.core.canonical import digest_of, read_json
from snaketune.core.code_identity import code_digest
from snaketune.core.digests import file_digest
from snaketune.core.locks import wait_for_lock
from snaketune.core.manifest import describe_files
from snaketune.data.rows.packed_rows import FIXED, PackedRows
from snaketune.settings.train_section import TrainSection
from snaketune.settings.training_slices import TrainingSlice
from snaketune.train.preference.dpo import PreferenceLoss
from snaketune.train.preference.dpo_trainer import PreferenceTrainer
from snaketune.train.preference.kto import UnpairedLoss
from snaketune.train.preference.kto_trainer import UnpairedTrainer
from snaketune.train.preference.orpo import OddsRatioLoss, OddsRatioTrainer
from snaketune.train.preference.reference import ReferenceScores
from snaketune.train.preference.reward import PairScoreLoss, RewardTrainer

DIGEST_BYTES, ROWS_HASHED_AT_ONCE = 16, 1024
# The settings that influence the last bits of a forward pass.
ARITHMETIC = ("bf16", "fp16", "tf32", "fp8", "use_liger_kernel", "cpu_threads", "deterministic")


@dataclass(frozen=True, slots=True)
class ReferenceCache:
    """Blocks of a reference in a folder; each file begins with the digest of its content."""

    folder: Path

    def __call__(self, name: str, compute: Callable[[], ReferenceScores]) -> ReferenceScores:
        """Return the block ``name``, computed if missing or damaged; a lock lets one process compute at a time."""
        # Runs with the same base and data, a grid over beta for example, share this folder and may start together.
        lock = wait_for_lock(self.folder / "lock")
        path = self.folder / name
        found = self._read(path)
        if found is None:
            found = compute()
            content = _packed(found)
            write_bytes(path, hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest() + content)
        lock.close()
        return found

    def _read(self, path: Path) -> ReferenceScores | None:
        if not path.exists():
            return None
        stored = path.read_bytes()
        digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
        if hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest() != digest:
            print(f"The cached reference log-probabilities in {path} are damaged: they are recomputed.", flush=True)
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return ReferenceScores(arrays["log_probs"], arrays["counts"])


def _packed(reference: ReferenceScores) -> bytes:
    file = io.BytesIO()
    np.savez(file, log_probs=reference.log_probs, counts=reference.counts)
    return file.getvalue()


def preference_settings(
    cfg: TrainingSlice,
    base: Path,
    rows: Sequence[PackedRows],
    work: Path,
    start: Path | None = None,
    is_sample: bool = False,
) -> dict[str, Any]:
    """Return the arguments of the trainer that ``train.method`` adds: none for sft.

    Args:
        cfg: the ``train``, ``adapter`` and ``model`` sections.
        base: folder of the base model.
        rows: the rows of both splits.
        work: private folder of the run, ``<work>/runs/<fingerprint>``; references are in ``<work>/references``.
        start: weights of the adapter that training continues from.
        is_sample: whether the rows are a sample of those of a training, to measure its speed.
    """
    train = cfg["train"]
    method = train.get("method")
    if method == "orpo":
        return {"kind": OddsRatioTrainer, "loss": OddsRatioLoss(**train["orpo"])}
    if method == "reward":
        return {"kind": RewardTrainer, "loss": PairScoreLoss(**train["reward"])}
    if method not in ("dpo", "kto"):
        return {}
    folder = work.parent.parent / "references" / digest_of(reference_facts(cfg, base, rows, start))
    referenced = {"remember": ReferenceCache(folder), "starts_from_adapter": start is not None}
    if method == "kto":
        return {"kind": UnpairedTrainer, "loss": UnpairedLoss(**train["kto"]), "is_sample": is_sample, **referenced}
    return {"kind": PreferenceTrainer, "loss": PreferenceLoss(**train["dpo"]), **referenced}


def loss_limit(train: TrainSection, limit: float | None) -> float | None:
    """Return the limit on the loss increase; None for ``ipo``, whose loss is a squared distance and not in nats."""
    is_distance = train.get("method") == "dpo" and train["dpo"]["loss_type"] == "ipo"
    return None if is_distance else limit


def reference_facts(
    cfg: TrainingSlice, base: Path, rows: Sequence[PackedRows], start: Path | None = None
) -> dict[str, Any]:
    """Return all inputs that determine the reference log-probabilities: the cache key."""
    manifest, scripts = base.parent / "manifest.json", Path(__file__).parents[3]
    return {
        "base": read_json(manifest)["files"] if manifest.is_file() else describe_files([base], base),
        "start": file_digest(start) if start else None,
        "rows": [rows_digest(split) for split in rows],
        "model": cfg["model"],
        "adapter": cfg["adapter"]["type"],
        "train": {name: cfg["train"].get(name) for name in ARITHMETIC},
        # Log-probabilities differ in the last bits between kinds of GPUs.
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        # Another version of the code could sum in another order; the cache must not hide that from a run whose
        # fingerprint says so.
        "code": code_digest(Path(__file__).with_name(f"{cfg['train']['method']}_trainer.py"), scripts),
    }


def rows_digest(rows: PackedRows) -> str:
    """Return a digest of the rows' tokens, positions and masks; memory holds 1024 rows."""
    state = xxhash.xxh3_128(json.dumps([len(rows), rows.row_length]).encode())
    for start in range(0, len(rows), ROWS_HASHED_AT_ONCE):
        block = range(start, min(start + ROWS_HASHED_AT_ONCE, len(rows)))
        for name in FIXED:
            state.update(rows.take(name, block).data)
    return state.hexdigest()
