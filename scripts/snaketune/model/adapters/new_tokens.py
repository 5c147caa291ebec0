"""Added tokens whose embeddings are untrained, and the ids of tokens given by text.

An embedding row created by resizing the model is close to the mean of all rows (transformers draws it from their
distribution with a tiny fraction of its variance), zero, or random as initialised. Trained rows of a model share a
common direction, and random rows are nearly orthogonal to it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snaketune.core.errors import ConfigError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.model.configuration import CONFIG
from snaketune.model.json_files import read_object
from snaketune.model.weights import embedding_rows
from snaketune.settings.adapter_section import AdapterSection

if TYPE_CHECKING:
    import torch

TOKENIZER = "tokenizer.json"
NEW = "new"
# A row whose distance from the mean is at most this fraction of the median distance was drawn around the mean.
NEAR_MEAN = 0.05
# Random vectors of width d have a cosine of about 1/sqrt(d). The test for random rows applies only if the median cosine
# with the mean row is above 6 times that; a row below 3 times that counts as orthogonal.
LEANING, UPRIGHT = 6.0, 3.0
INITIAL_SPREAD = 0.02
SPREAD_BAND = 0.15
EMBEDDINGS_AT_ONCE, SHOWN_TOKENS = 8192, 4


def token_numbers(setting: str | list[int | str], folder: Path) -> list[int]:
    """Return the ids of the tokens selected by ``adapter.trainable_token_indices``, ascending.

    Args:
        setting: ``new``, or tokens by text or id.
        folder: the prepared model.

    Raises:
        ConfigError: if the tokenizer has no such token, or no token is new.
    """
    if not setting:
        return []
    if setting == NEW:
        found = sorted(untrained_tokens(folder).values())
        if not found:
            raise ConfigError(
                "adapter.trainable_token_indices: this model has no new tokens; all embeddings of added tokens are "
                "trained already: list tokens by their text, or leave it out."
            )
        return found
    known = vocabulary(folder)
    numbers = set(known.values())
    for token in setting:
        if token not in (numbers if isinstance(token, int) else known):
            raise ConfigError(
                f"adapter.trainable_token_indices: the tokenizer has no token {token!r}: add it to the model's"
                " vocabulary first, or correct it."
            )
    return sorted({token if isinstance(token, int) else known[token] for token in setting})


def with_token_numbers(adapter: AdapterSection, folder: Path) -> AdapterSection:
    """Return the ``adapter`` section with the ids of its tokens, see :func:`token_numbers`."""
    if adapter["type"] == "none":
        return adapter
    numbers: list[int | str] = [*token_numbers(adapter["trainable_token_indices"], folder)]
    return adapter | {"trainable_token_indices": numbers}


def vocabulary(folder: Path) -> dict[str, int]:
    """Return the id of every token of the tokenizer in ``folder``."""
    # BPE and WordPiece vocabularies are mappings; a Unigram vocabulary is a list of (token, score) in the order of ids.
    content = read_object(folder / TOKENIZER)
    listed = (content.get("model") or {}).get("vocab") or {}
    pairs = listed.items() if isinstance(listed, dict) else ((entry[0], at) for at, entry in enumerate(listed))
    return {**{str(token): int(number) for token, number in pairs}, **added_tokens(folder)}


def added_tokens(folder: Path) -> dict[str, int]:
    """Return the ids of the tokens that were added to the tokenizer's own vocabulary."""
    listed = read_object(folder / TOKENIZER).get("added_tokens") or []
    return {str(entry["content"]): int(entry["id"]) for entry in listed if "content" in entry and "id" in entry}


def untrained_tokens(folder: Path) -> dict[str, int]:
    """Return the ids of the added tokens whose embedding rows look untrained.

    The result is empty if the folder has no weights or its embedding is not found.
    """
    added = added_tokens(folder)
    with embedding_rows(folder) as rows:
        if rows is None or not added:
            return {}
        inside = {token: number for token, number in added.items() if number < rows.get_shape()[0]}
        untrained = _untrained(rows, sorted(set(inside.values())), initial_spread(folder))
    return {token: number for token, number in sorted(inside.items(), key=lambda one: one[1]) if number in untrained}


def initial_spread(folder: Path) -> float:
    """Return the standard deviation of the model's weight initialisation."""
    settings = read_object(folder / CONFIG)
    return float((settings.get("text_config") or settings).get("initializer_range") or INITIAL_SPREAD)


def _untrained(weight: Any, numbers: list[int], spread: float) -> set[int]:
    """Return which of the rows ``numbers`` of ``weight`` (a file slice, [tokens, width]) look untrained."""
    import torch

    mean, distances, leanings = _usual(weight)
    rows = torch.stack([weight[number].float() for number in numbers]) if numbers else mean[None][:0]
    near = (rows - mean).norm(dim=1) <= NEAR_MEAN * distances
    zero = rows.norm(dim=1) <= NEAR_MEAN * distances
    random = torch.zeros(len(rows), dtype=torch.bool)
    accident = len(mean) ** -0.5
    if leanings > LEANING * accident:
        upright = (rows @ mean).abs() <= UPRIGHT * accident * rows.norm(dim=1) * mean.norm()
        random = upright & ((rows.std(dim=1) - spread).abs() <= SPREAD_BAND * spread)
    chosen = (near | zero | random).tolist()
    return {number for number, is_untrained in zip(numbers, chosen, strict=True) if is_untrained}


def rows_in(weight: Any) -> int:
    """Return the number of rows of a file slice."""
    return weight.get_shape()[0]


def _usual(weight: Any) -> "tuple[torch.Tensor, float, float]":
    """Return the mean row, the median distance from it and the median absolute cosine with it."""
    import torch

    parts = [
        weight[start : start + EMBEDDINGS_AT_ONCE].float() for start in range(0, rows_in(weight), EMBEDDINGS_AT_ONCE)
    ]
    mean = torch.stack([part.sum(dim=0) for part in parts]).sum(dim=0) / rows_in(weight)
    distances = torch.cat([(part - mean).norm(dim=1) for part in parts])
    leanings = torch.cat([(part @ mean) / (part.norm(dim=1) * mean.norm()).clamp_min(1e-30) for part in parts])
    return mean, float(distances.median()), float(leanings.abs().median())


def advice_on_tokens(
    rows: Callable[[], PackedRows], new_tokens: Callable[[], dict[str, int]], adapter: AdapterSection
) -> str | None:
    """Return a sentence on new tokens in the data whose embeddings this training does not change, else None.

    Args:
        rows: opens the packed training rows; called only if there are tokens to search for.
        new_tokens: finds the model's new tokens (:func:`untrained_tokens`); called only if needed.
        adapter: the ``adapter`` section, with ids of tokens in ``trainable_token_indices``.
    """
    if adapter["type"] == "none" or adapter["modules_to_save"]:
        return None
    new, trained = new_tokens(), set(adapter["trainable_token_indices"])
    wanted = set(new.values()) - trained
    present = _tokens_in(rows(), wanted) if wanted else set()
    left = [token for token, number in new.items() if number in present]
    if not left:
        return None
    shown = ", ".join(left[:SHOWN_TOKENS]) + (
        f" and {len(left) - SHOWN_TOKENS} more" if len(left) > SHOWN_TOKENS else ""
    )
    return (
        f"{len(left)} tokens in the data were added to the vocabulary but their embeddings are untrained ({shown}), "
        "and LoRA does not train them: set adapter.trainable_token_indices to new to train only these."
    )


def _tokens_in(rows: PackedRows, wanted: set[int]) -> set[int]:
    """Return which of the tokens ``wanted`` occur in any row."""
    candidates, found = np.array(sorted(wanted)), set[int]()
    for start in range(0, len(rows), EMBEDDINGS_AT_ONCE):
        block = rows.take("input_ids", range(start, min(start + EMBEDDINGS_AT_ONCE, len(rows))))
        found |= set(np.intersect1d(block, candidates).tolist())
    return found
