"""What a training starts from: weights and configuration of the base model and, from another run, an adapter."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from snaketune.core.canonical import digest_of
from snaketune.core.errors import ConfigError, TrainingError
from snaketune.facts.merge_facts import MERGED
from snaketune.facts.model_facts import PreparedModel
from snaketune.facts.training_facts import TRAINED
from snaketune.train.checkpoints.weight_publishing import WEIGHTS

NO_REWARDS: Mapping[str, Path] = {}


@dataclass(frozen=True, slots=True)
class Origins:
    """Digests by origin, and the file of the adapter to continue from."""

    digests: dict[str, str]
    start: Path | None


def find_origins(model: PreparedModel, start: str | Path | None, rewards: Mapping[str, Path] = NO_REWARDS) -> Origins:
    """Return what a training starts from.

    Args:
        model: the manifest of the base model.
        start: path of the manifest of the adapter to continue from, if there is one.
        rewards: paths of the facts of the merges of reward models, by their names.

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
    digests |= {name: _digest_of_merge(name, path) for name, path in rewards.items()}
    if not start:
        return Origins(digests, None)
    digests["adapter"] = digest_of(TRAINED.read_manifest(start)["files"])
    return Origins(digests, Path(start).parent / "adapter" / WEIGHTS)


def _digest_of_merge(name: str, path: Path) -> str:
    """Return the digest of the merged model beside the facts at ``path``.

    Raises:
        TrainingError: if the merge was refused.
        DataError: if a file of it is damaged.
    """
    facts = MERGED.read_manifest(path)
    if not facts["files"]:
        raise TrainingError(f"train.grpo.rewards: {name}: this run has no merged model: correct its merge first.")
    return digest_of(facts["files"])
