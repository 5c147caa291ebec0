"""What ``train.method`` changes in the making of a trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snaketune.core.canonical import digest_of
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.preference.dpo import PreferenceLoss
from snaketune.train.preference.dpo_trainer import PreferenceTrainer
from snaketune.train.preference.kto import UnpairedLoss
from snaketune.train.preference.kto_trainer import UnpairedTrainer
from snaketune.train.preference.orpo import OddsRatioLoss, OddsRatioTrainer
from snaketune.train.preference.reference_cache import ReferenceCache, reference_facts


def preference_settings(
    cfg: dict[str, Any], base: Path, rows: Sequence[PackedRows], work: Path, start: Path | None = None
) -> dict[str, Any]:
    """Return what ``train.method`` changes in the making of a trainer: nothing for sft.

    Args:
        cfg: the ``train``, ``adapter`` and ``model`` sections.
        base: folder of the base model.
        rows: of both splits.
        work: private folder of the run, ``<work>/runs/<fingerprint>``; references are in ``<work>/references``.
        start: weights of the adapter that training goes on from.
    """
    train = cfg["train"]
    method = train.get("method")
    if method == "orpo":
        return {"kind": OddsRatioTrainer, "loss": OddsRatioLoss(**train["orpo"])}
    if method not in ("dpo", "kto"):
        return {}
    folder = work.parent.parent / "references" / digest_of(reference_facts(cfg, base, rows, start))
    referenced = {"remember": ReferenceCache(folder), "starts_from_adapter": start is not None}
    if method == "kto":
        return {"kind": UnpairedTrainer, "loss": UnpairedLoss(**train["kto"]), **referenced}
    return {"kind": PreferenceTrainer, "loss": PreferenceLoss(**train["dpo"]), **referenced}


def loss_limit(train: dict[str, Any], limit: float | None) -> float | None:
    """Return how much the loss may rise: that of ``ipo`` is a squared distance, which knows no nats."""
    is_distance = train.get("method") == "dpo" and train["dpo"]["loss_type"] == "ipo"
    return None if is_distance else limit
