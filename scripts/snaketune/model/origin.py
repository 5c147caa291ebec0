"""The origins of base models: folder, GGUF file or hub; each is brought into one folder, with or without weights."""

import sys
from pathlib import Path
from typing import Any

from snaketune.model.folder import link_model
from snaketune.model.gguf.gguf_base import convert_gguf
from snaketune.model.gguf.gguf_file import find_gguf
from snaketune.model.hub import REPOSITORY, fetch_snapshot
from snaketune.model.smollm2 import SMOLLM2, fetch_smollm2, packaged_file
from snaketune.settings.model_section import ModelSection

TINY = "tiny"


def bring_model(
    cfg: ModelSection, folder: Path, weights: bool = True, commit: str | None = None
) -> tuple[dict[str, Any], Path]:
    """Fill the empty ``folder`` with an existing model.

    Args:
        cfg: ``name_or_path`` (``smollm2``, a folder, a GGUF file or a hub repository), ``revision`` and
            ``trust_remote_code``.
        folder: receives the files.
        weights: whether to include the weights; if not, none of them is fetched or read.
        commit: the commit of a hub repository if known already, since a branch may move between two jobs.

    Returns:
        The model's origin, without paths of this machine, and the folder of its weights: the user's own if ``folder``
        contains links, so that errors name a file that the user knows.

    Raises:
        ConfigError: if the model cannot be found, reached or used safely.
        DataError: if its files are damaged.
    """
    name = cfg["name_or_path"]
    path = Path(name).expanduser()
    if gguf := packaged_file() if name == SMOLLM2 else find_gguf(path):
        return bring_gguf(gguf, folder, weights), folder
    if path.exists() or not REPOSITORY.fullmatch(name):
        link_model(path, folder, cfg["trust_remote_code"], weights)
        return {"kind": "folder", "name": path.resolve().name}, path
    if name == SMOLLM2:
        snapshot = fetch_smollm2(weights)
    else:
        snapshot = fetch_snapshot(name, commit or cfg["revision"], cfg["trust_remote_code"], weights)
    link_model(snapshot.folder, folder, cfg["trust_remote_code"], weights)
    revision = cfg["revision"] if commit and name != SMOLLM2 else snapshot.revision
    facts = {"repo": snapshot.repo, "revision": revision, "commit": snapshot.commit}
    return {"kind": "hub", "name": snapshot.repo, **facts}, snapshot.folder


def bring_gguf(file: Path, folder: Path, weights: bool) -> dict[str, Any]:
    """Fill the empty ``folder`` from a GGUF file, with a notice on stderr if its weights are quantised."""
    facts = convert_gguf(file, folder, weights)
    if facts.is_quantized and weights:
        print(
            f"{file.name} holds {facts.quantization} weights: training starts from their dequantised values in"
            " bfloat16; the quality lost by quantisation is unknown.",
            file=sys.stderr,
            flush=True,
        )
    card = {"card": facts.card} if facts.card else {}
    return {"kind": "gguf", "name": facts.name or file.name, "quantization": facts.quantization, **card}
