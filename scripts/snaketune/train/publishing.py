"""From the last checkpoint to the published adapter, the same bytes whenever and wherever it is made."""

import shutil
from pathlib import Path

from snaketune.common.atomic import write_json, writing_directory
from snaketune.common.canonical import read_json

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"


def publish_adapter(checkpoint: Path, target: Path, base_name: str, revision: str | None) -> None:
    """Copy the adapter of a sealed checkpoint to ``target``.

    PEFT keeps target modules in a set, whose order follows the hash seed, and the folder it loaded the base
    model from; both are replaced by what means the same everywhere.

    Args:
        checkpoint: the sealed checkpoint of the last step.
        target: the adapter folder to make.
        base_name: hub id or folder that the adapter belongs to.
        revision: commit of a hub id.
    """
    settings = read_json(checkpoint / SETTINGS)
    settings = {name: sorted(value) if _is_set(name, value) else value for name, value in settings.items()}
    settings |= {"base_model_name_or_path": base_name, "revision": revision}
    with writing_directory(target) as partial:
        shutil.copyfile(checkpoint / WEIGHTS, partial / WEIGHTS)
        write_json(partial / SETTINGS, settings)


def _is_set(name: str, value: object) -> bool:
    return isinstance(value, list) and name in ("target_modules", "modules_to_save", "target_parameters")
