"""The rows that cases train on, in each layout that is compared, and the FLOPs of each layout."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snaketune.core.atomic import write_json
from snaketune.core.canonical import read_json
from snaketune.data.rows.cutting import CutDocuments, Sizes, cut
from snaketune.data.rows.packed_rows import write_rows
from snaketune.data.rows.packing import one_per_row, pack
from snaketune.data.rows.rightsizing import LengthPolicy, choose_max_length
from snaketune.data.tokens.token_store import TokenStore
from snaketune.plan.flops import ModelShape, hardware_flops

DENSE = ("sdpa", "eager")
"""Kernels that compute every pair of positions in a row and mask most of them."""

PACKED, PADDED = "packed", "padded"
MOST_DOCUMENTS, MOST_HELD_OUT = 4096, 256
"""More rows would not make throughput more exact, and take long to write in every layout."""


@dataclass(frozen=True, slots=True)
class SampleLayout:
    """Rows of the sample on disk, and counts of those of the training split.

    Attributes:
        squares: sum of the squared lengths of the documents, in tokens².
    """

    folder: str
    row_length: int
    rows: int
    tokens: int
    trained: int
    squares: int

    @property
    def is_packed(self) -> bool:
        """Tell from the folder's facts whether rows are packed instead of holding one document each."""
        return self.folder.endswith(PACKED)

    @property
    def tokens_per_row(self) -> float:
        """Return the real tokens in a row, on average."""
        return self.tokens / self.rows

    @property
    def places_per_token(self) -> float:
        """Return the positions, padding included, per real token."""
        return self.rows * self.row_length / self.tokens


@dataclass(frozen=True, slots=True)
class DocumentSample:
    """A sample of the run's training and held-out documents, untruncated or as pieces.

    Attributes:
        most_tokens: the length at which texts are split.
        train, held_out: indices of pieces.
        lengths: of the training pieces, in tokens.
    """

    folder: Path
    most_tokens: int
    train: np.ndarray
    held_out: np.ndarray
    lengths: np.ndarray

    @property
    def longest(self) -> int:
        """Return the tokens of the longest training document."""
        return int(self.lengths.max())


def draw(tokens: Path, most_tokens: int, seed: int) -> DocumentSample:
    """Return a sample of the tokenised documents that have at most ``most_tokens``.

    Args:
        tokens: folder of the tokenised splits.
        most_tokens: ``max_length`` of the run; conversations that it drops or cuts are left out.
        seed: of the choice.
    """
    chosen, lengths = {}, {}
    for split, most in (("train", MOST_DOCUMENTS), ("eval", MOST_HELD_OUT)):
        pieces = cut(Sizes.of(TokenStore(tokens / split)), most_tokens, "drop")
        # A random sample in the order of the data: sorted access reads the memory-mapped store forwards.
        chosen[split] = np.sort(np.random.default_rng(seed).permutation(len(pieces))[:most])
        lengths[split] = pieces.lengths[chosen[split]]
    return DocumentSample(tokens, most_tokens, chosen["train"], chosen["eval"], lengths["train"])


def lengths_to_compare(tokens: Path, rightsize: Mapping[str, Any], multiple: int, guides: int) -> tuple[int, int]:
    """Return the row length that the data need and that of the guides (or the configuration), in tokens.

    Args:
        tokens: folder of the tokenised splits.
        rightsize: the facts of the run's own length.
        multiple: ``tokens.pad_to_multiple_of``.
        guides: the length that the guides pad to.
    """
    own, context = rightsize["max_length"], rightsize["model_context"]
    lengths = TokenStore(tokens / "train").lengths
    policy = LengthPolicy("auto", rightsize["on_too_long"], 1.0, multiple)
    needed = min(own, choose_max_length(np.minimum(lengths, own), policy, context)[0])
    if rightsize["max_length_from"] == "data":
        needed = own
    return needed, own if own > needed else max(needed, min(guides, context or guides))


def lay_out(sample: DocumentSample, row_length: int, packing: bool, pad_id: int, folder: Path) -> SampleLayout:
    """Write the sample as rows unless they exist, and return them."""
    place = folder / f"{row_length}-{PACKED if packing else PADDED}"
    facts = place / "layout.json"
    if facts.is_file():
        return SampleLayout(**read_json(facts))
    place.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split, chosen in (("train", sample.train), ("eval", sample.held_out)):
        store = TokenStore(sample.folder / split)
        pieces = cut(Sizes.of(store), sample.most_tokens, "drop")
        documents, lengths = CutDocuments(store, pieces), pieces.lengths[chosen]
        plan = pack(lengths, row_length) if packing else one_per_row(lengths)
        counts[split] = write_rows(place / f"{split}.arrow", documents, plan.among(chosen), row_length, pad_id)
    rows, tokens, trained = (int(counts["train"][name]) for name in ("rows", "tokens", "trainable_tokens"))
    # int64 before squaring: lengths are int32, whose squares overflow from 46,341 tokens on.
    squares = int((sample.lengths.astype(np.int64) ** 2).sum())
    layout = SampleLayout(str(place), row_length, rows, tokens, trained, squares)
    # Written last: a folder without it is an interrupted layout and is written again.
    write_json(facts, asdict(layout))
    return layout


def operations(
    shape: ModelShape, layout: SampleLayout, engine: Mapping[str, Any], trained_parameters: int, full: bool
) -> float:
    """Return the FLOPs that a training executes per real token.

    Layers compute every position, padding included, unless training joins the tokens of a batch into one row; a chunked
    loss computes loss-bearing positions only. Attention with a mask computes whole rows: ``row_length²`` pairs, where
    half of each document's would suffice.

    Args:
        shape: of the model.
        layout: the rows.
        engine: training's decisions: ``attention``, ``chunked_loss``, ``checkpoint_every``, ``computes_padding``.
        trained_parameters: of the adapter.
        full: whether all weights are trained.
    """
    places = layout.rows * layout.row_length if engine.get("computes_padding", True) else layout.tokens
    is_dense = engine["attention"] in DENSE
    squares = 2 * layout.rows * layout.row_length**2 if is_dense else layout.squares
    lora, every = 0 if full else trained_parameters, engine["checkpoint_every"]
    whole = hardware_flops(shape, places, squares, lora, full, every)
    if engine["chunked_loss"]:
        # The head's share, per token 2 operations forward and 2 or 4 backward, is spent on loss-bearing positions only.
        whole -= (6 if full else 4) * shape.head_parameters * (places - layout.trained)
    return whole / layout.tokens


def predicted_speed_up(off: float, on: float) -> float:
    """Return the predicted speed-up of the case with ``on`` FLOPs per real token."""
    return off / on
