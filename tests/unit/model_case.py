"""A model prepared as the workflow does it: the tokenizer first, then everything."""

from pathlib import Path
from typing import Any

from snaketune.model.prepare import MergedBase
from snaketune.model.prepare import prepare_model as prepare_beside_tokenizer
from snaketune.model.tokenizer_only import TokenizerFolder, prepare_tokenizer


def prepare_model(
    cfg: dict[str, Any], output: Path, corpus: Path | None = None, base: MergedBase | None = None, weights: bool = True
) -> dict[str, Any]:
    """Prepare both and return the facts of the model; the tokenizer's folder is beside ``output``."""
    folder = output.with_name(f"{output.name}-tokenizer")
    tokenizer = TokenizerFolder(folder, prepare_tokenizer(cfg, folder, corpus))
    return prepare_beside_tokenizer(cfg, output, tokenizer, corpus, base, weights)
