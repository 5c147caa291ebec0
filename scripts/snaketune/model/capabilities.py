"""Tests of a kind of model on a miniature, before any time is spent: is it causal, and does it keep documents separate?

Both depend on the configuration alone: on the attention, on recurrent layers, and on whether restarting positions
isolate the documents of a packed row. A model of a few thousand random weights with the same settings shows it.
"""

from pathlib import Path
from typing import Any

import torch

from snaketune.core.errors import ConfigError
from snaketune.model.architecture import auto_class, body_of, model_class, read_configuration, support_of
from snaketune.model.checkpoint_fit import refuse_quantised
from snaketune.model.miniature import miniature

FIRST, SECOND = 11, 9
MASK_TOLERANCE = 1e-3
# With the usual initialisation attention is nearly uniform and a leak between documents hardly visible.
SPREAD = 0.1
MOST_TESTED_PARAMETERS = 20_000_000


def describe_nature(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """Return the capabilities of the model in ``folder``, for the manifest.

    Returns:
        ``kind`` and ``packing``: True if the documents of a packed row are independent, False if they are not, None
        if no miniature of this kind of model could be tested.

    Raises:
        ConfigError: if it is not a causal language model, or its weights are quantised.
    """
    refuse_quantised(folder)
    return nature_of(read_configuration(folder, trust_remote_code), trust_remote_code)


def nature_of(config: Any, trust_remote_code: bool) -> dict[str, Any]:
    """Return the same facts for the model that a ``PreTrainedConfig`` describes."""
    refuse_other_kinds(config, trust_remote_code)
    if getattr(model_class(config), "_is_stateful", False):  # recurrent layers, whose state passes through a row
        return {"kind": config.model_type, "packing": False}
    model = _small_model(config, trust_remote_code)
    if model is None:
        return {"kind": config.model_type, "packing": None}
    change = _change(model, seen=slice(0, FIRST), ids=_ids(), other=_ids(later=5))
    if change > MASK_TOLERANCE:
        raise ConfigError(
            f"model.name_or_path: a {config.model_type} model with these settings is not causal (tokens attend to "
            "later ones): give a causal language model."
        )
    return {"kind": config.model_type, "packing": bool(_mixing(model) <= MASK_TOLERANCE)}


def refuse_other_kinds(config: Any, trust_remote_code: bool = False) -> None:
    """Raise ConfigError if transformers has no causal language model for ``config``."""
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"model.name_or_path: a {config.model_type} model is an encoder-decoder: give a decoder-only model."
        )
    has_own_code = trust_remote_code and bool(getattr(config, "auto_map", None))
    if model_class(config) is None and not has_own_code:
        raise ConfigError(
            f"model.name_or_path: transformers has no causal language model for {config.model_type}: give a model that"
            " generates text."
        )


def _small_model(config: Any, trust_remote_code: bool) -> Any:
    """Return a miniature with random weights, None if no miniature of this kind of model runs."""
    kernel = "sdpa" if support_of(config).sdpa else "eager"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            small = miniature(config)
            _refuse_large(small, trust_remote_code)
            model = auto_class(small).from_config(
                small, attn_implementation=kernel, trust_remote_code=trust_remote_code
            )
            for weight in model.parameters():
                if weight.dim() >= 2 and weight.is_floating_point():
                    torch.nn.init.normal_(weight, std=SPREAD)
            model = model.float().eval()
            _states(model, _ids()[None], torch.arange(FIRST + SECOND)[None])
    except Exception as error:  # kinds fail with errors of many types; training tests the model itself again
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        kind = config.model_type
        print(
            f"Packing will be checked when training starts: a miniature {kind} model does not run ({reason}).",
            flush=True,
        )
        return None
    return model


def _refuse_large(small: Any, trust_remote_code: bool) -> None:
    """Raise ValueError if a miniature is not small because this kind of model names its sizes differently."""
    with torch.device("meta"):
        model = auto_class(small).from_config(small, trust_remote_code=trust_remote_code)
    size = sum(weight.numel() for weight in model.parameters())
    if size > MOST_TESTED_PARAMETERS:
        raise ValueError(f"it has {size} weights")


def _ids(later: int = 0) -> torch.Tensor:
    ids = (torch.arange(FIRST + SECOND) * 7 + 3) % 100 + 4
    ids[FIRST:] += later
    return ids


def _change(model: Any, seen: slice, ids: torch.Tensor, other: torch.Tensor) -> float:
    """Return the relative difference of the states at ``seen`` between two sequences."""
    positions = torch.arange(len(ids))[None]
    return _relative(*(_states(model, one[None], positions)[seen] for one in (ids, other)))


def _mixing(model: Any) -> float:
    """Return the relative change of a document's states if another document precedes it in its row."""
    ids = _ids()
    alone = _states(model, ids[None, FIRST:], torch.arange(SECOND)[None])
    positions = torch.cat([torch.arange(FIRST), torch.arange(SECOND)])
    return _relative(alone, _states(model, ids[None], positions[None])[FIRST:])


@torch.no_grad()
def _states(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return body_of(model)(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0]


def _relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(((one - other).norm(dim=-1) / one.norm(dim=-1).clamp_min(1e-12)).max())
