"""The tokenizer of a model without its weights: all that data are prepared with, and to see how they are rendered."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.atomic import writing_directory
from snaketune.core.manifest import read_manifest
from snaketune.model.configuration import describe_configuration, describe_tokenizer
from snaketune.model.origin import TINY, bring_model
from snaketune.model.tiny.tiny_corpus import QUICKSTART, corpus_texts
from snaketune.model.tiny.tiny_tokenizer import make_tokenizer
from snaketune.settings.model import Model


@dataclass(frozen=True, slots=True)
class PreparedTokenizer:
    """A tokenizer that was prepared: the folder with its files and the facts of its manifest."""

    folder: Path
    facts: dict[str, Any]

    @classmethod
    def of_manifest(cls, manifest: str | Path) -> "PreparedTokenizer":
        """Return what the manifest of a prepared tokenizer describes.

        Raises:
            DataError: if a file of it is missing or damaged.
        """
        return cls(Path(manifest).parent / "model", read_manifest(manifest))


def prepare_tokenizer(cfg: Model, output: Path, corpus: Path | None = None) -> dict[str, Any]:
    """Fill the folder ``output`` with the model that ``cfg`` names, without its weights.

    Args:
        cfg: ``name_or_path`` (``tiny``, ``smollm2``, a folder, a GGUF file or a hub repository), ``revision``,
            ``trust_remote_code``, and of ``tiny`` what its tokenizer depends on.
        output: the folder; it appears when everything in it is complete.
        corpus: canonical records for a tiny model that learns from the data.

    Returns:
        The facts of the manifest: where it comes from, ``vocab_size``, ``context_length``, the digests of tokenizer and
        chat template, and ``nature``, which tells whether its rows can be packed.

    Raises:
        ConfigError: if the model cannot be found, reached or used safely, or is not a causal language model.
        DataError: if its files are damaged.
    """
    with writing_directory(output) as folder:
        if cfg["name_or_path"] == TINY:
            sizes = make_tokenizer(cfg["tiny"], corpus_texts(cfg["tiny"]["corpus"], corpus)(), folder)
            facts = {"kind": TINY, "name": TINY, **sizes, **describe_tokenizer(folder)}
            return {**facts, "nature": {"kind": "llama", "packing": True}}
        from snaketune.model.capabilities import describe_nature

        origin, _ = bring_model(cfg, folder, weights=False)
        nature = describe_nature(folder, cfg["trust_remote_code"])
        return {**origin, **describe_configuration(folder), "nature": nature}


def look_at_tokenizer(cfg: Model, folder: Path, texts: Iterable[str]) -> dict[str, Any]:
    """Fill the empty ``folder`` likewise, to look at a few records that are not prepared yet.

    Args:
        cfg: the ``model`` section.
        folder: where it goes.
        texts: the beginning of the data, for a tiny model that learns from them.

    Returns:
        ``vocab_size`` and ``context_length`` (None where the model does not say), and ``note``, a sentence where it is
        not the tokenizer that a run will have.

    Raises:
        ConfigError: if the model cannot be found or reached.
    """
    if cfg["name_or_path"] != TINY:
        bring_model(cfg, folder, weights=False)
        return {name: describe_configuration(folder)[name] for name in ("vocab_size", "context_length")} | {"note": ""}
    if cfg["tiny"]["corpus"] == QUICKSTART:
        return make_tokenizer(cfg["tiny"], corpus_texts(QUICKSTART, None)(), folder) | {"note": ""}
    note = "The tiny model's tokenizer is built from the first texts here: tokens of a run may differ slightly."
    return make_tokenizer(cfg["tiny"], texts, folder) | {"note": note}
