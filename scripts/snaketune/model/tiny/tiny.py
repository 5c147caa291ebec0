"""The tiny base model from start to end: corpus, pretraining, a model folder like any other."""

from pathlib import Path
from typing import Any

from snaketune.core.errors import ConfigError
from snaketune.model.folder import link
from snaketune.model.tiny.tiny_corpus import corpus_texts


def make_tiny_model(cfg: dict[str, Any], corpus: Path | None, tokenizer_folder: Path, folder: Path) -> None:
    """Train a model as ``cfg`` (the ``model.tiny`` section) says and save it into ``folder``, with its tokenizer.

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


def check_sizes(cfg: dict[str, Any]) -> None:
    """Raise ConfigError if no model has the sizes in ``cfg``."""
    if cfg["hidden_size"] % (2 * cfg["num_attention_heads"]):
        raise ConfigError(
            f"model.tiny.hidden_size {cfg['hidden_size']} does not divide into {cfg['num_attention_heads']} heads of"
            f" even width: give a multiple of {2 * cfg['num_attention_heads']}."
        )
