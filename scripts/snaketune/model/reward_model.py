"""Reward models: a base model with a linear layer of one output, the score of a text, instead of its output layer.

In transformers that is the class for sequence classification with one label. The score of a text is that of its last
token that is not padding, as ``AutoModelForSequenceClassification`` takes it.
"""

import copy
from pathlib import Path
from typing import Any

from snaketune.core.errors import ConfigError

HEAD = "score"
CLASSIFIER = "ForSequenceClassification"
TASK = "SEQ_CLS"
CHECK_SEED, DEVIATION = 0, 0.02
# Names of the output layer, which a reward model leaves out.
OUTPUTS = ("lm_head.", "embed_out.", "output_layer.")


def is_reward_configuration(config: Any) -> bool:
    """Tell whether a ``PreTrainedConfig`` is that of a reward model: a sequence classifier with one label."""
    return any(name.endswith(CLASSIFIER) for name in config.architectures or ()) and config.num_labels == 1


def is_reward_model(folder: str | Path) -> bool:
    """Tell whether ``folder`` holds a reward model or the adapter of one."""
    # A training that reads no folder, as that of a benchmark, runs without orjson.
    from snaketune.model.json_files import read_object

    folder = Path(folder)
    if (folder / "adapter_config.json").is_file():
        return bool(read_object(folder / "adapter_config.json").get("task_type") == TASK)
    names = read_object(folder / "config.json").get("architectures") or ()
    return any(name.endswith(CLASSIFIER) for name in names)


def reward_configuration(config: Any, folder: str | Path) -> Any:
    """Return the configuration of a causal language model as that of a reward model; one of such a model as it is.

    Args:
        config: a ``PreTrainedConfig``.
        folder: the model's folder; its tokenizer decides the padding token, which is no part of a text.

    Raises:
        ConfigError: if transformers has no class for sequence classification with this kind of model.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if is_reward_configuration(config):
        return config
    mapping = AutoModelForSequenceClassification._model_mapping
    if type(config) not in mapping:
        raise ConfigError(
            f"train.method: reward needs a class for sequence classification, which transformers does not have for"
            f" {config.model_type} models: choose another model, or train.method: dpo, which needs no reward model."
        )
    config = copy.deepcopy(config)
    found: Any = mapping[type(config)]
    config.architectures, config.num_labels = [found.__name__], 1
    text = config.get_text_config()
    if text.pad_token_id is None:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        pad = tokenizer.pad_token_id
        text.pad_token_id = tokenizer.eos_token_id if pad is None else pad
    return config


def padding_of(model: Any) -> int | None:
    """Return the id of the token that a reward model takes for padding, None if it has none."""
    found: int | None = model.config.get_text_config().pad_token_id
    return found


def has_reward_head(model: Any) -> bool:
    """Tell whether ``model`` gives scores of texts."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return is_reward_configuration(base.config)


def start_head(model: Any) -> None:
    """Give a head without trained weights its first ones, the same wherever and whenever the model is loaded.

    Raises:
        ConfigError: if the head of this kind of model is not a single linear layer.
    """
    import torch

    head = getattr(model, HEAD, None)
    if not isinstance(head, torch.nn.Linear) or head.bias is not None:
        raise ConfigError(
            f"train.method: reward needs a head that is one linear layer called {HEAD}, and {type(model).__name__} has"
            " another: choose another model."
        )
    drawn = torch.empty(head.weight.shape).normal_(0, DEVIATION, generator=torch.Generator().manual_seed(CHECK_SEED))
    with torch.no_grad():
        head.weight.copy_(drawn)
