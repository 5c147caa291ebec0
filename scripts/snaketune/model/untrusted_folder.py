"""Checks of model folders from untrusted sources: links that point outside, and settings of wrong types."""

from pathlib import Path
from typing import Any

from snaketune.core.errors import ConfigError
from snaketune.model.configuration import CONFIG
from snaketune.model.json_files import read_object

NUMBERS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *(
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "n_positions",
        "n_ctx",
        "n_embd",
        "n_layer",
        "n_head",
    ),
)
CONFIG_OBJECTS = ("text_config", "quantization_config", "rope_scaling", "auto_map")
TEXTS = ("model_type", "dtype", "torch_dtype")


def require_inside(file: Path, folder: Path) -> None:
    """Refuse a link that points outside the model folder: its target would become part of the results.

    Links from ``snapshots/<commit>`` to the neighbouring ``blobs``, as in the hub's cache, are allowed.

    Raises:
        ConfigError: with the link and its target.
    """
    home, place = folder.resolve(), file.resolve()
    allowed = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(place.is_relative_to(root) for root in allowed):
        raise ConfigError(
            f"{file} is a link out of the model folder, to {place}: replace the link by the file, or give the folder "
            "of its target."
        )


def check_types(folder: Path) -> None:
    """Refuse a ``config.json`` with a value of the wrong type among the settings that are read here.

    Raises:
        ConfigError: with the key and its value.
    """
    config = read_object(folder / CONFIG)
    _check(folder / CONFIG, config)
    if isinstance(inner := config.get("text_config"), dict):
        _check(folder / CONFIG, inner)


def _check(file: Path, config: dict[str, Any]) -> None:
    kinds = [(NUMBERS, int, "an integer"), (CONFIG_OBJECTS, dict, "an object"), (TEXTS, str, "a text")]
    for keys, kind, words in kinds:
        for key in keys:
            value = config.get(key)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise ConfigError(f"{file}: {key} is {str(value)[:60]!r}, not {words}: copy the model again.")
    names = config.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ConfigError(f"{file}: architectures is {str(names)[:60]!r}, not a list of names: copy the model again.")
