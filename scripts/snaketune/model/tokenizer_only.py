"""The tokenizer of a model without its weights: enough to see how records are rendered and how long they are."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from snaketune.data.quickstart import world_texts
from snaketune.model.prepare import TINY, bring_model, describe_configuration
from snaketune.model.tiny import check_sizes
from snaketune.model.tiny_tokenizer import train_tokenizer

# The tokenizer of the tiny model is made of this many texts here, which takes a second.
TEXTS = 2000


def bring_tokenizer(cfg: dict[str, Any], folder: Path, texts: Iterable[str]) -> dict[str, Any]:
    """Fill the empty ``folder`` with the tokenizer of the model that ``cfg`` (the ``model`` section) names.

    Args:
        cfg: the section.
        folder: where it goes.
        texts: of the data, for a tiny model that learns from them.

    Returns:
        ``vocab_size`` and ``context_length`` (None where the model does not say), and ``note``, a sentence where it is
        not the tokenizer that a run will have.

    Raises:
        ConfigError: if the model cannot be found or reached.
    """
    if cfg["name_or_path"] != TINY:
        bring_model(cfg, folder, None, None, weights=False)
        return {name: describe_configuration(folder)[name] for name in ("vocab_size", "context_length")} | {"note": ""}
    tiny = cfg["tiny"]
    check_sizes(tiny)
    corpus = world_texts() if tiny["corpus"] == "quickstart" else texts
    tokenizer = train_tokenizer(islice(corpus, TEXTS), tiny["vocab_size"], tiny["max_position_embeddings"])
    tokenizer.save_pretrained(folder)
    note = "The tiny model's tokenizer is made of the first texts here: a run's tokens may differ a little."
    return {"vocab_size": len(tokenizer), "context_length": tiny["max_position_embeddings"], "note": note}
