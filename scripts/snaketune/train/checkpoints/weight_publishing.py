"""Publishing the result of a training from its checkpoint, with the same bytes at any time and on any machine."""

import os
import shutil
from pathlib import Path
from typing import Any

from snaketune.core.atomic import write_json, writing_directory
from snaketune.core.canonical import read_json
from snaketune.model.configuration import CONFIG, GENERATION, write_configuration

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
WEIGHTS_INDEX = "model.safetensors.index.json"


def publish_weights(checkpoint: Path, target: Path, base_folder: Path, base_name: str, revision: str | None) -> None:
    """Publish the result of a training: an adapter or, after full training, a model.

    Args:
        checkpoint: the sealed checkpoint of the last step.
        target: the folder to create.
        base_folder: the model that training started from.
        base_name: hub id or folder of the adapter's base model.
        revision: commit of a hub id.
    """
    if (checkpoint / SETTINGS).is_file():
        kind = read_json(base_folder / CONFIG).get("model_type", "")
        publish_adapter(checkpoint, target, base_name, revision, kind)
    else:
        publish_model(checkpoint, target, base_folder)


def publish_adapter(checkpoint: Path, target: Path, base_name: str, revision: str | None, kind: str = "") -> None:
    """Copy the adapter of a checkpoint to ``target``; ``kind`` is the base model's ``model_type``.

    PEFT stores target modules in the order of a set, which depends on the hash seed, and the local folder of the base
    model; the former are sorted, the latter is replaced by ``base_name``.
    """
    # Not at the top: the report and the watcher, which take a name from here, would wait seconds for PEFT.
    from snaketune.model.adapters.peft_names import for_every_peft

    settings = for_every_peft(read_json(checkpoint / SETTINGS), kind)
    settings = {name: sorted(value) if _is_set(name, value) else value for name, value in settings.items()}
    # A local path would differ between machines and say nothing to whoever gets the adapter.
    settings |= {"base_model_name_or_path": base_name, "revision": revision}
    with writing_directory(target) as partial:
        shutil.copyfile(checkpoint / WEIGHTS, partial / WEIGHTS)
        write_json(partial / SETTINGS, settings)


def publish_model(checkpoint: Path, target: Path, base_folder: Path) -> None:
    """Put the weights of a checkpoint and the model's configuration into ``target``.

    The weights keep the dtype that they were trained in; the tokenizer comes with the merged model. Training disables
    the KV cache in the configuration, which is restored here for generation.
    """
    config, before = (read_json(folder / CONFIG) for folder in (checkpoint, base_folder))
    generation = next((f / GENERATION for f in (base_folder, checkpoint) if (f / GENERATION).is_file()), None)
    with writing_directory(target) as partial:
        for file in model_weights(checkpoint):
            _link_or_copy(file, partial / file.name)
        write_configuration(partial / CONFIG, _with_cache(config, before))
        if generation:
            shutil.copyfile(generation, partial / GENERATION)


def model_weights(folder: Path) -> list[Path]:
    """Return the weight files of a full model in ``folder`` and their index, if any, sorted."""
    return sorted(path for path in folder.glob("model*.safetensors*") if path.is_file())


def _with_cache(config: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    # The key is absent if it was absent before, rather than set to a default that the base model did not state.
    kept = {key: value for key, value in config.items() if key != "use_cache"}
    return kept | ({"use_cache": before["use_cache"]} if "use_cache" in before else {})


def _link_or_copy(file: Path, target: Path) -> None:
    # Checkpoints are removed, never changed: a link costs no second copy of a large model.
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _is_set(name: str, value: object) -> bool:
    return isinstance(value, list) and name in ("target_modules", "modules_to_save", "target_parameters")
