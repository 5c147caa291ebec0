"""What makes merged weights a model: configuration, tokenizer, chat template, licence."""

import shutil
from pathlib import Path
from typing import Any

import torch

from snaketune.common.atomic import write_bytes
from snaketune.common.canonical import read_json
from snaketune.model.configuration import CONFIG, GENERATION, with_dtype, write_configuration
from snaketune.model.stops import settings_with_stop

TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
KINDS = {".json", ".txt", ".model", ".jinja", ".py", ".tiktoken"}
LICENCES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")


def copy_companions(base_folder: Path, own_folder: Path, folder: Path, dtype: torch.dtype, template: str) -> None:
    """Copy everything but weights and read-me from the base model and make it fit the merged one.

    Args:
        base_folder: the base model.
        own_folder: where the configuration is that fits the weights: the base model's or a trained model's.
        folder: the merged model, which has its weights already.
        dtype: number format that ``config.json`` states.
        template: the chat template the model was tuned with; empty keeps the base model's.
    """
    for path in sorted(base_folder.iterdir()):
        if path.is_file() and _travels(path):
            shutil.copyfile(path, folder / path.name)
    if not (base_folder / GENERATION).is_file():
        (folder / GENERATION).unlink(missing_ok=True)  # saved by a library with its own defaults
    name = str(dtype).removeprefix("torch.")
    write_configuration(folder / CONFIG, with_dtype(read_json(own_folder / CONFIG), name))
    if template:
        _replace_template(folder, template)


def end_answers(folder: Path, base_folder: Path, tokenizer: Any, template: str) -> None:
    """Let the merged model in ``folder`` end an answer where the chat template ends a turn."""
    settings = settings_with_stop(base_folder, tokenizer, template)
    if settings:
        write_configuration(folder / GENERATION, settings)


def _travels(path: Path) -> bool:
    if path.name.upper().startswith(LICENCES):
        return True
    is_weights = path.name.endswith(".index.json")
    return path.suffix in KINDS and not is_weights and not path.name.startswith(".")


def _replace_template(folder: Path, template: str) -> None:
    # A template in the tokenizer's configuration would compete with the file.
    path = folder / TOKENIZER_CONFIG
    if path.is_file():
        write_configuration(path, {key: value for key, value in read_json(path).items() if key != "chat_template"})
    (folder / "chat_template.json").unlink(missing_ok=True)
    write_bytes(folder / TEMPLATE, template.encode())
