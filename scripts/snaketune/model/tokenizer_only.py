"""The tokenizer of a model without its weights: enough to prepare data, or to show how records are rendered."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.atomic import writing_directory
from snaketune.facts.model_facts import PREPARED_TOKENIZER, PreparedTokenizer
from snaketune.model.configuration import describe_configuration, describe_tokenizer
from snaketune.model.origin import TINY, bring_model
from snaketune.model.tiny.tiny_corpus import QUICKSTART, corpus_texts
from snaketune.model.tiny.tiny_tokenizer import make_tokenizer
from snaketune.settings.model_section import ModelSection


@dataclass(frozen=True, slots=True)
class TokenizerFolder:
    """A prepared tokenizer: the folder with its files, and the facts of its manifest."""

    folder: Path
    facts: PreparedTokenizer

    @classmethod
    def of_manifest(cls, manifest: str | Path) -> "TokenizerFolder":
        """Return the prepared tokenizer that a manifest describes.

        Raises:
            DataError: if a file is missing or damaged.
        """
        return cls(Path(manifest).parent / "model", PREPARED_TOKENIZER.read_manifest(manifest))


def prepare_tokenizer(cfg: ModelSection, output: Path, corpus: Path | None = None) -> dict[str, Any]:
    """Fill the folder ``output`` with the model that ``cfg`` names, without its weights.

    Args:
        cfg: ``name_or_path`` (``tiny``, ``smollm2``, a folder, a GGUF file or a hub repository), ``revision``,
            ``trust_remote_code``, and those settings of ``tiny`` on which its tokenizer depends.
        output: the folder; it appears once everything in it is complete.
        corpus: canonical records for a tiny model that learns from the data.

    Returns:
        The facts of the manifest: origin, ``vocab_size``, ``context_length``, the digests of tokenizer and chat
        template, and ``nature``, which says whether its rows can be packed.

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


def tokenizer_of_texts(cfg: ModelSection, folder: Path, texts: Iterable[str]) -> dict[str, Any]:
    """Fill the empty ``folder`` in the same way, to inspect a few records before they are prepared.

    Args:
        cfg: the ``model`` section.
        folder: receives the files.
        texts: the beginning of the data, for a tiny model that learns from them.

    Returns:
        ``vocab_size`` and ``context_length`` (None if unknown), and ``note``, a sentence if this is not exactly the
        tokenizer that a run will have.

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
