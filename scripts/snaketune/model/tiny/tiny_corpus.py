"""The pretraining corpus of the tiny model: texts of the quickstart, or the plain text of a run's training split."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.quickstart import world_texts

QUICKSTART = "quickstart"


def corpus_texts(name: str, corpus: Path | None) -> Callable[[], Iterable[str]]:
    """Return a function that starts a new pass over the documents of the corpus called ``name``.

    Args:
        name: ``quickstart`` or ``data``.
        corpus: the canonical train.jsonl, needed for ``data``.

    Raises:
        ConfigError: if the corpus is unknown or the records are missing.
        DataError: if it is empty.
    """
    if name == QUICKSTART:
        return world_texts
    if name != "data":
        raise ConfigError(f"model.tiny.corpus {name} is unknown: give quickstart or data.")
    if corpus is None:
        raise ConfigError("model.tiny.corpus data needs the training records: pass them with --corpus.")
    if next(record_texts(corpus), None) is None:
        raise DataError(f"{corpus} has no text to train the tiny model on: give data with at least one record.")
    return lambda: record_texts(corpus)


def record_texts(corpus: Path) -> Iterator[str]:
    """Yield the text of each canonical record in ``corpus``: its messages, one after another, without chat markers."""
    with open(corpus, "rb") as file:
        for line in file:
            record = orjson.loads(line)
            text = record.get("text") or "\n".join(message["content"] or "" for message in _messages(record))
            if text:
                yield text


def _messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a record, for a pair with the chosen answer."""
    return [*record.get("messages", ()), *record.get("chosen", ())]
