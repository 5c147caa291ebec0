"""The configuration files of a model folder: sizes, digests and dtype."""

import json
from pathlib import Path
from typing import Any

from snaketune.core.atomic import write_bytes
from snaketune.core.canonical import digest_of
from snaketune.model.json_files import read_object
from snaketune.model.tokenizer_files import chat_template_digest, tokenizer_digest

CONFIG, GENERATION = "config.json", "generation_config.json"
# Where a model was loaded from and which version saved it: irrelevant to what its weights compute.
VOLATILE_KEYS = frozenset({"_name_or_path", "transformers_version", "_commit_hash"})
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")


def describe_configuration(folder: Path) -> dict[str, Any]:
    """Return the sizes in ``config.json`` and the digests of the tokenizer and the chat template.

    ``vocab_size`` is the number of rows of the embedding, ``context_length`` the longest sequence in tokens; either
    is ``None`` if the configuration does not contain it.
    """
    config = read_object(folder / CONFIG)
    sizes = {**config, **(config.get("text_config") or {})}
    context = next((sizes[key] for key in CONTEXT_KEYS if sizes.get(key)), None)
    return {"vocab_size": sizes.get("vocab_size"), "context_length": context, **describe_tokenizer(folder)}


def configuration_digest(folder: Path) -> str:
    """Return the digest of everything in ``config.json`` that determines what the weights compute."""
    config = read_object(folder / CONFIG)
    return digest_of({key: value for key, value in config.items() if key not in VOLATILE_KEYS})


def describe_tokenizer(folder: Path) -> dict[str, Any]:
    """Return the digests of the tokenizer and the chat template in ``folder``."""
    return {"tokenizer_digest": tokenizer_digest(folder), "chat_template_digest": chat_template_digest(folder)}


def with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the configuration with its dtype replaced, also under its older name ``torch_dtype``."""
    config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": dtype}
    for key, value in config.items():
        if isinstance(value, dict) and ("dtype" in value or "torch_dtype" in value):
            config[key] = with_dtype(value, dtype)
    return config


def write_configuration(path: Path, value: dict[str, Any]) -> None:
    """Write JSON as transformers does; its configurations may contain integers beyond 64 bits, which orjson refuses."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())
