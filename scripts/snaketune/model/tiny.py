"""The tiny base model from start to end: corpus, tokenizer, pretraining, a model folder like any other."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from snaketune.common.errors import ConfigError, DataError
from snaketune.data.quickstart import world_texts
from snaketune.model.tiny_tokenizer import SMALLEST_VOCABULARY, train_tokenizer

TOKENIZER_SAMPLE_CHARACTERS = 64_000_000  # merges do not change with more text, memory and time do


def make_tiny_model(cfg: dict[str, Any], corpus: Path | None, folder: Path) -> None:
    """Train tokenizer and model as ``cfg`` (the ``model.tiny`` section) says and save them into ``folder``.

    Args:
        cfg: ``corpus`` (``quickstart`` or ``data``), sizes, ``pretrain_*`` settings and ``seed``.
        corpus: the canonical train.jsonl, needed when ``cfg["corpus"]`` is ``data``.
        folder: an empty folder.

    Raises:
        ConfigError: if a size is impossible or the corpus unknown.
        DataError: if the corpus is empty.
    """
    check_sizes(cfg)
    texts = corpus_texts(cfg["corpus"], corpus)

    from transformers.utils import logging

    from snaketune.model.tiny_model import Pretraining, build_model, encode_corpus, pretrain

    tokenizer = train_tokenizer(_sample(texts()), cfg["vocab_size"], cfg["max_position_embeddings"])
    model = build_model(cfg, tokenizer)
    plan = Pretraining(cfg["pretrain_steps"], cfg["pretrain_batch_size"], cfg["pretrain_learning_rate"], cfg["seed"])
    if plan.steps:
        documents = encode_corpus(texts(), tokenizer, cfg["max_position_embeddings"], plan.steps * plan.batch_size)
        pretrain(model, documents, plan, tokenizer.pad_token_id)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_sizes(cfg: dict[str, Any]) -> None:
    """Raise ConfigError if no model has the sizes in ``cfg``."""
    if cfg["vocab_size"] < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"model.tiny.vocab_size {cfg['vocab_size']} is too small: all bytes and the special tokens are"
            f" {SMALLEST_VOCABULARY}, give at least that."
        )
    if cfg["hidden_size"] % (2 * cfg["num_attention_heads"]):
        raise ConfigError(
            f"model.tiny.hidden_size {cfg['hidden_size']} does not divide into {cfg['num_attention_heads']} heads of"
            f" even width: give a multiple of {2 * cfg['num_attention_heads']}."
        )


def corpus_texts(name: str, corpus: Path | None) -> Callable[[], Iterable[str]]:
    """Return a function that starts a new pass over the documents of the corpus called ``name``."""
    if name == "quickstart":
        return world_texts
    if name != "data":
        raise ConfigError(f"model.tiny.corpus {name} is unknown: give quickstart or data.")
    if corpus is None:
        raise ConfigError("model.tiny.corpus data needs the training records: pass them with --corpus.")
    if next(record_texts(corpus), None) is None:
        raise DataError(f"{corpus} has no text to train the tiny model on: give data with at least one record.")
    return lambda: record_texts(corpus)


def record_texts(corpus: Path) -> Iterator[str]:
    """Yield the text of each canonical record in ``corpus``: its messages by lines, without chat markers."""
    with open(corpus, "rb") as file:
        for line in file:
            record = orjson.loads(line)
            text = record.get("text") or "\n".join(message["content"] or "" for message in _messages(record))
            if text:
                yield text


def _messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a record; of a pair, with the answer that was chosen."""
    return [*record.get("messages", ()), *record.get("chosen", ())]


def _sample(texts: Iterable[str]) -> Iterator[str]:
    """Yield the first documents, up to a number of characters that is plenty to train a tokenizer."""
    characters = 0
    for text in texts:
        yield text
        characters += len(text)
        if characters > TOKENIZER_SAMPLE_CHARACTERS:
            return
