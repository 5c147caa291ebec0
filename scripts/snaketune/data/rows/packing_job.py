"""The stage that packs: both splits, cut to the run's length and packed into rows.

Training reads rows too, on machines that have only torch and its libraries, so the stage is not in the module of their
reader.
"""

from dataclasses import dataclass
from pathlib import Path

from snaketune.core.manifest import write_manifest
from snaketune.data.rows.cutting import CutDocuments, Sizes, cut
from snaketune.data.rows.packed_rows import write_rows
from snaketune.data.rows.packing import one_per_row, pack, refuse_mixed_pairs, wants_packing
from snaketune.data.tokens.token_store import TokenStore
from snaketune.facts.data_facts import CHOSEN_LENGTH
from snaketune.facts.token_facts import ENCODING
from snaketune.settings.data_slices import LengthSlice


@dataclass(frozen=True, slots=True)
class PackingJob:
    """Packing: files and settings, by the names of the flags that ``pack_rows.py`` documents."""

    spec: str
    code: str
    cfg: LengthSlice
    rightsize: Path
    tokens: Path
    train: Path
    eval: Path
    manifest: Path


def pack_splits(job: PackingJob) -> None:
    """Cut, pack and write both splits, and record their counts.

    Raises:
        ConfigError: if pairs and other records are mixed in a way that cannot be packed.
    """
    pad_id, sizes = ENCODING.read_manifest(job.tokens)["pad_id"], CHOSEN_LENGTH.read(job.rightsize)
    settings = job.cfg["tokens"]
    row_length, packs = sizes["max_length"], wants_packing(settings["packing"], sizes["model_packs"])
    accounts = {}
    for split, output in (("train", job.train), ("eval", job.eval)):
        store = TokenStore(job.tokens.parent / split)
        refuse_mixed_pairs(bool(store.seconds.any()), sizes["model_packs"])
        pieces = cut(Sizes.of(store), row_length, settings["on_too_long"])
        rows = pack(pieces.lengths, row_length) if packs else one_per_row(pieces.lengths)
        margins = store.margins[pieces.documents] if store.margins.any() else None
        documents = CutDocuments(store, pieces)
        accounts[split] = write_rows(output, documents, rows, row_length, pad_id, margins) | pieces.counts()
        if margins is not None:
            accounts[split] |= {"scored_pairs": int((margins > 0).sum()), "mean_margin": float(margins.mean())}
    facts = {"row_length": row_length, "packing": packs, "splits": accounts}
    write_manifest(job.manifest, "pack_rows", [job.train, job.eval], facts)
