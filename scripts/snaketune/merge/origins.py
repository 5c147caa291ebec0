"""Whether an adapter was trained on the base model that it is merged into, as the manifests of both tell."""

from pathlib import Path

from snaketune.core.canonical import read_json
from snaketune.core.errors import TrainingError


def check_origin(model: str | Path, adapter: str | Path) -> None:
    """Compare the weights that an adapter was trained on with those of the base model.

    Args:
        model: manifest of the base model, or its folder.
        adapter: manifest of the adapter, or its folder. A folder tells nothing and passes.

    Raises:
        TrainingError: if the weights are others.
    """
    if not all(str(path).endswith(".json") for path in (model, adapter)):
        return
    trained_on, base = read_json(adapter).get("origins", {}).get("base"), read_json(model).get("weights_digest")
    if trained_on and base and trained_on != base:
        raise TrainingError(
            f"{adapter}: the adapter was trained on other weights ({trained_on[:12]}) than those of {model}"
            f" ({base[:12]}): train it again."
        )
