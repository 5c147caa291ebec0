"""The files of presets, read and identified; every start of the workflow imports this."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PRESET_FOLDER = Path(__file__).resolve().parents[4] / "config" / "presets"


def read_presets(folder: Path = PRESET_FOLDER) -> dict[str, dict[str, Any]]:
    """Return the contents of the preset files in ``folder`` by name."""
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml"))}


@cache
def load_presets(folder: Path = PRESET_FOLDER) -> dict[str, dict[str, Any]]:
    """Return the presets for any model on one device by name, without those that name a model, data or several GPUs."""
    return {name: values for name, values in read_presets(folder).items() if _is_general(values)}


@cache
def presets_digest(folder: Path = PRESET_FOLDER) -> str:
    """Return a digest of the parsed presets, which comments do not change."""
    return hashlib.blake2b(json.dumps(load_presets(folder), sort_keys=True).encode(), digest_size=8).hexdigest()


def _is_general(values: Mapping[str, Any]) -> bool:
    names_model = "name_or_path" in (values.get("model") or {})
    return (
        not names_model and "sources" not in (values.get("data") or {}) and "num_gpus" not in (values.get("plan") or {})
    )
