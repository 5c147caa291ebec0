"""Checks that a checkpoint fits its configuration: no weight missing, unknown or of a different shape.

transformers initialises missing weights randomly and ignores unknown ones, with no more than a warning. A training
would then start from a damaged model.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snaketune.core.errors import ConfigError, DataError
from snaketune.model.json_files import read_object
from snaketune.model.reward_model import HEAD, OUTPUTS, is_reward_configuration
from snaketune.model.weights import find_weight_files, stored_weights

# Buffers that old versions of transformers saved and newer ones do not read, and multi-token prediction layers.
UNUSED_BUFFERS = re.compile(r"(^|\.)(attn|attention)\.(masked_)?bias$|inv_freq$|position_ids$|(^|\.)(mtp|nextn)[._]")
# Quantisation methods whose checkpoints can be trained from directly.
TRAINED_QUANTISED = frozenset({"bitsandbytes"})
ANOTHER = "copy the model again, or correct its config.json"


def refuse_quantised(folder: Path) -> None:
    """Raise ConfigError for a checkpoint quantised by a method that cannot be trained from."""
    config = read_object(folder / "config.json")
    stated = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config") or {}
    method = stated.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in stated else None)
    if stated and method not in TRAINED_QUANTISED:
        raise ConfigError(
            f"model.name_or_path: according to its config.json the weights are quantised ({method}), but training "
            "needs unquantised weights: give the original model, or dequantise this one with transformers' "
            "from_pretrained(...) and save_pretrained(...); model.quantization then quantises them for training."
        )


def check_loaded(folder: Path, model: Any, found: dict[str, Any], is_new_head: bool = False) -> None:
    """Check the report of transformers on loading ``model`` from ``folder``.

    Args:
        folder: the model folder.
        model: the loaded model.
        found: transformers' loading information.
        is_new_head: whether a language model was loaded as a reward model: its output layer is then left out, and the
            head for scores is not in its files.

    Raises:
        DataError: for the first tensor that is missing, unknown or of a different shape.
        ConfigError: if the configuration ties two tensors that differ.
    """
    kind = model.config.model_type
    found = _without_head(found) if is_new_head else found
    if found["mismatched_keys"]:
        name, stored, wanted = sorted(found["mismatched_keys"])[0]
        raise DataError(
            f"{folder}: {len(found['mismatched_keys'])} tensors differ in shape from config.json; the first is"
            f" {name} with {list(stored)} for {list(wanted)}: {ANOTHER}."
        )
    if missing := sorted(found["missing_keys"]):
        raise DataError(
            f"{folder}: {len(missing)} tensors of this {kind} model are missing from its files; the first is"
            f" {missing[0]}: {ANOTHER}."
        )
    if unknown := sorted(name for name in found["unexpected_keys"] if not UNUSED_BUFFERS.search(name)):
        raise DataError(
            f"{folder}: {len(unknown)} tensors of the files do not exist in a {kind} model with this config.json; the "
            f"first is {unknown[0]}: {ANOTHER}."
        )
    _check_tied(folder, model)


def _without_head(found: dict[str, Any]) -> dict[str, Any]:
    """Return transformers' loading information without what a new reward model replaces: the output layer."""
    return {
        **found,
        "missing_keys": {name for name in found["missing_keys"] if name != f"{HEAD}.weight"},
        "unexpected_keys": {name for name in found["unexpected_keys"] if not name.startswith(OUTPUTS)},
    }


def _check_tied(folder: Path, model: Any) -> None:
    """Refuse different tensors for tied weights: it is undefined which of the two a reader uses."""
    if is_reward_configuration(model.config) or not getattr(
        model.config.get_text_config(), "tie_word_embeddings", False
    ):
        return
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [next((name for name, part in model.named_modules() if part is layer), "") for layer in layers]
    stored = stored_weights(find_weight_files(folder), [f"{name}.weight" for name in names])
    if len(stored) == 2 and not (stored[0].shape == stored[1].shape and bool((stored[0] == stored[1]).all())):
        raise ConfigError(
            f"{folder}: config.json ties input embedding and output layer (tie_word_embeddings), but the files hold "
            f"two different tensors ({', '.join(names)}): set tie_word_embeddings to false."
        )


@contextmanager
def without_report() -> Iterator[None]:
    """Silence transformers' own report on mismatched weights, and its progress bars, inside the block."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
