"""Auxiliary files of a merged model: configuration, tokenizer, chat template, licence."""

import shutil
from pathlib import Path
from typing import Any

import torch

from snaketune.core.atomic import write_bytes
from snaketune.core.canonical import read_json
from snaketune.merge.checkpoint import Checkpoint
from snaketune.model.configuration import CONFIG, GENERATION, with_dtype, write_configuration
from snaketune.model.stop_tokens import settings_with_stop

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
TIED, TEXT = "tie_word_embeddings", "text_config"
# How the names of the two embeddings end, in the models that may tie them.
OUTPUT_FILES = (".lm_head.weight", ".embed_out.weight", ".output_layer.weight")
INPUTS = (".embed_tokens.weight", ".wte.weight", ".embed_in.weight", ".word_embeddings.weight", ".embedding.weight")
COPIED_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".py", ".tiktoken"}
LICENCES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")


def copy_auxiliary_files(base_folder: Path, own_folder: Path, folder: Path, dtype: torch.dtype, template: str) -> None:
    """Copy everything but weights and README from the base model and adapt it to the merged one.

    Args:
        base_folder: the base model.
        own_folder: where the configuration is that fits the weights: the base model's, a trained model's or, of a
            reward model, the merged model's own.
        folder: the merged model, which has its weights already.
        dtype: dtype that ``config.json`` states.
        template: the chat template the model was tuned with; empty keeps the base model's.
    """
    own = read_json(own_folder / CONFIG)
    for path in sorted(base_folder.iterdir()):
        if path.is_file() and _travels(path):
            shutil.copyfile(path, folder / path.name)
    if not (base_folder / GENERATION).is_file():
        (folder / GENERATION).unlink(missing_ok=True)  # saved by a library with its own defaults
    name = str(dtype).removeprefix("torch.")
    config = with_dtype(own, name)
    if is_tied(config) and has_own_output_layer(folder):
        config = untied(config)
    write_configuration(folder / CONFIG, config)
    if template:
        _replace_template(folder, template)


def is_tied(config: dict[str, Any]) -> bool:
    """Tell whether a configuration, or its text part, ties input embedding and output layer."""
    return any(part.get(TIED) for part in (config, config.get(TEXT) or {}))


def has_own_output_layer(folder: Path) -> bool:
    """Tell whether the weights in ``folder`` have an output layer that differs from their input embedding."""
    checkpoint = Checkpoint(folder)
    output, embedding = (
        next((name for end in ends for name in checkpoint.shapes if f".{name}".endswith(end)), None)
        for ends in (OUTPUT_FILES, INPUTS)
    )
    if not output or not embedding or checkpoint.shapes[output] != checkpoint.shapes[embedding]:
        return bool(output)
    return not torch.equal(checkpoint.tensor(output), checkpoint.tensor(embedding))


def untied(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration that does not tie two different tensors, of which loaders would keep only one."""
    text = {TEXT: untied(config[TEXT])} if config.get(TEXT) else {}
    return {**config, **({TIED: False} if config.get(TIED) else {}), **text}


def end_answers(folder: Path, base_folder: Path, tokenizer: Any, template: str) -> None:
    """Make the merged model in ``folder`` stop where the chat template ends a turn."""
    settings = settings_with_stop(base_folder, tokenizer, template)
    if settings:
        write_configuration(folder / GENERATION, settings)


def _travels(path: Path) -> bool:
    if path.name.upper().startswith(LICENCES):
        return True
    is_weights = path.name.endswith(".index.json")
    return path.suffix in COPIED_SUFFIXES and not is_weights and not path.name.startswith(".")


def _replace_template(folder: Path, template: str) -> None:
    # A template in the tokenizer's configuration could take precedence over the file.
    path = folder / TOKENIZER_CONFIG
    if path.is_file():
        write_configuration(path, {key: value for key, value in read_json(path).items() if key != "chat_template"})
    (folder / "chat_template.json").unlink(missing_ok=True)
    write_bytes(folder / TEMPLATE_FILE, template.encode())
