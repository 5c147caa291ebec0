"""Preparation of a run's base model: one folder, whatever the origin, and the facts about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.atomic import writing_directory
from snaketune.core.canonical import digest_of
from snaketune.core.errors import ConfigError, DataError
from snaketune.core.manifest import read_manifest
from snaketune.facts.model_facts import PreparedTokenizer
from snaketune.merge.outcome import accepted
from snaketune.model.architecture import read_configuration
from snaketune.model.configuration import configuration_digest, describe_configuration
from snaketune.model.folder import link, link_model
from snaketune.model.model_metadata import describe_card
from snaketune.model.origin import TINY, bring_model
from snaketune.model.tiny.tiny_corpus import corpus_texts
from snaketune.model.tokenizer_only import TokenizerFolder
from snaketune.model.weights import count_parameters, digest_weights, find_weight_files
from snaketune.settings.model_section import ModelSection, TinyModelSection

# Facts that both the tokenizer's job and the model's job determine.
IN_COMMON = ("vocab_size", "context_length", "tokenizer_digest", "chat_template_digest")


@dataclass(frozen=True, slots=True)
class MergedBase:
    """The merged model of another run: its folder, and the digest of its files from that run's manifest."""

    folder: Path
    digest: str


def merged_base(manifest: str | Path) -> MergedBase:
    """Return the merged model that ``manifest``, the manifest of its merge, describes.

    Raises:
        SnaketuneError: the error of the merge, if it failed.
        DataError: if a file is missing or damaged.
    """
    accepted(manifest)
    return MergedBase(Path(manifest).parent / "merged", digest_of(read_manifest(manifest)["files"]))


def prepare_model(
    cfg: ModelSection,
    output: Path,
    tokenizer: TokenizerFolder,
    corpus: Path | None = None,
    base: MergedBase | None = None,
    weights: bool = True,
) -> dict[str, Any]:
    """Fill the folder ``output`` with the model that ``cfg`` names and return the facts of its manifest.

    Args:
        cfg: ``name_or_path`` (``tiny``, ``smollm2``, ``run:<name>``, a folder, a GGUF file or a hub repository),
            ``revision``, ``trust_remote_code``, ``tiny``.
        output: the model folder; it appears once everything in it is complete and checked.
        tokenizer: the result of :func:`prepare_tokenizer`, with which the data are prepared.
        corpus: canonical records for a tiny model that learns from the data.
        base: the merged model of the run that ``name_or_path`` names.
        weights: whether to include the weights; planning does not need them.

    Raises:
        ConfigError: if the model cannot be found, reached or used safely.
        DataError: if its files are damaged, its weights are not finite or its tokenizer has changed.
    """
    with writing_directory(output) as folder:
        origin, source = _bring(cfg, folder, tokenizer, corpus, base, weights)
        facts = describe_configuration(folder)
        if not base:
            _refuse_another_tokenizer(cfg["name_or_path"], tokenizer.facts, facts)
        # Another run writes its model card only at its end; the card of the original model is used instead.
        stated = {} if base else describe_card(source)
        return {
            **origin,
            **(describe_weights(source) if weights or cfg["name_or_path"] == TINY else describe_shape(folder, cfg)),
            **facts,
            "configuration_digest": configuration_digest(folder),
            "nature": tokenizer.facts["nature"],
            **({"card": stated} if stated else {}),
        }


def _bring(
    cfg: ModelSection,
    folder: Path,
    tokenizer: TokenizerFolder,
    corpus: Path | None,
    base: MergedBase | None,
    weights: bool,
) -> tuple[dict[str, Any], Path]:
    """Fill the empty ``folder`` and return what :func:`bring_model` returns."""
    name = cfg["name_or_path"]
    if name == TINY:
        make_tiny_model(cfg["tiny"], corpus, tokenizer.folder, folder)
        return {"kind": "tiny", "name": TINY}, folder
    if base:
        link_model(base.folder, folder, cfg["trust_remote_code"])
        return {"kind": "run", "name": name, "merged_digest": base.digest}, base.folder
    return bring_model(cfg, folder, weights, tokenizer.facts.get("commit"))


def _refuse_another_tokenizer(name: str, tokenizer: PreparedTokenizer, found: Mapping[str, Any]) -> None:
    """Raise DataError if the tokenizer beside the weights is not the one with which the data are prepared."""
    known: Mapping[str, Any] = tokenizer
    changed = [key for key in IN_COMMON if known[key] != found[key]]
    if changed:
        raise DataError(
            f"model.name_or_path {name} changed while it was prepared ({changed[0]} is {found[changed[0]]}, and"
            f" {known[changed[0]]} where the data are prepared): run the same command again."
        )


def describe_weights(folder: Path) -> dict[str, Any]:
    """Return the number, dtype and digest of the weights in ``folder``, after checking that all are finite."""
    files = find_weight_files(folder)
    size = count_parameters(files)
    return {"parameters": size.parameters, "dtype": size.dtype, "weights_digest": digest_weights(files)}


def describe_shape(folder: Path, cfg: ModelSection) -> dict[str, Any]:
    """Return the same as :func:`describe_weights` from the configuration alone, without weights or digest.

    Raises:
        PlanError: if transformers has no causal language model for it.
    """
    from snaketune.plan.memory.counting import count_config_parameters as parameters_of

    allowed = cfg["trust_remote_code"]
    config = read_configuration(folder, allowed)
    dtype = str(config.dtype).removeprefix("torch.") if config.dtype else "bfloat16"
    return {"parameters": parameters_of(config).total, "dtype": dtype, "weights_digest": None}


def make_tiny_model(cfg: TinyModelSection, corpus: Path | None, tokenizer_folder: Path, folder: Path) -> None:
    """Train the tiny model of ``cfg`` (the ``model.tiny`` section) and save it into ``folder``, with its tokenizer.

    Args:
        cfg: ``corpus`` (``quickstart`` or ``data``), sizes, ``pretrain_*`` settings and ``seed``.
        corpus: the canonical train.jsonl, needed when ``cfg["corpus"]`` is ``data``.
        tokenizer_folder: the tokenizer, made from the same corpus.
        folder: an empty folder.

    Raises:
        ConfigError: if a size is impossible or the corpus unknown.
        DataError: if the corpus is empty.
    """
    check_sizes(cfg)
    texts = corpus_texts(cfg["corpus"], corpus)

    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    from snaketune.model.tiny.tiny_model import Pretraining, build_model, encode_corpus, pretrain

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    model = build_model(cfg, tokenizer)
    plan = Pretraining(cfg["pretrain_steps"], cfg["pretrain_batch_size"], cfg["pretrain_learning_rate"], cfg["seed"])
    if plan.steps:
        documents = encode_corpus(texts(), tokenizer, cfg["max_position_embeddings"], plan)
        pretrain(model, documents, plan, tokenizer.pad_token_id)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    for file in sorted(tokenizer_folder.iterdir()):
        link(file, folder / file.name)


def check_sizes(cfg: TinyModelSection) -> None:
    """Raise ConfigError if no model has the sizes in ``cfg``."""
    if cfg["hidden_size"] % (2 * cfg["num_attention_heads"]):
        raise ConfigError(
            f"model.tiny.hidden_size {cfg['hidden_size']} cannot be split into {cfg['num_attention_heads']} heads of "
            f"even size: give a multiple of {2 * cfg['num_attention_heads']}."
        )
