"""What a training starts from: weights and configuration of the base model and, from another run, an adapter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.canonical import digest_of
from snaketune.core.errors import ConfigError
from snaketune.core.manifest import read_manifest
from snaketune.train.checkpoints.weight_publishing import WEIGHTS


@dataclass(frozen=True, slots=True)
class Origins:
    """Digests by what they are of, and the file of the adapter to continue from."""

    digests: dict[str, str]
    start: Path | None


def find_origins(model: dict[str, Any], start: str | Path | None) -> Origins:
    """Return what a training starts from.

    Args:
        model: the manifest of the base model.
        start: path of the manifest of the adapter to continue from, if there is one.

    Raises:
        ConfigError: if the model was prepared without weights.
        DataError: if that adapter is damaged.
    """
    if model["weights_digest"] is None:
        raise ConfigError(
            f"plan.without_weights: true prepared {model['name']} for planning only: to train, set it to false and "
            "give a folder with safetensors files."
        )
    digests = {"base": model["weights_digest"], "configuration": model["configuration_digest"]}
    if not start:
        return Origins(digests, None)
    digests["adapter"] = digest_of(read_manifest(start)["files"])
    return Origins(digests, Path(start).parent / "adapter" / WEIGHTS)
