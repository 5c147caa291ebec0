"""Prepare the base model of a run: bring it into one folder, whatever its origin, and say what it is."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.common.atomic import writing_directory
from snaketune.common.canonical import digest_of
from snaketune.common.manifest import read_manifest
from snaketune.merge.outcome import accepted
from snaketune.model.architecture import read_configuration
from snaketune.model.folder import link_model
from snaketune.model.gguf_base import convert_gguf
from snaketune.model.gguf_file import find_gguf
from snaketune.model.hub import REPOSITORY, fetch_snapshot
from snaketune.model.json_files import read_object
from snaketune.model.smollm2 import SMOLLM2, fetch_smollm2, packaged_file
from snaketune.model.statement import describe_card
from snaketune.model.tiny import make_tiny_model
from snaketune.model.tokenizer_files import chat_template_digest, tokenizer_digest
from snaketune.model.weights import count_parameters, digest_weights, find_weight_files

TINY = "tiny"
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")


@dataclass(frozen=True, slots=True)
class MergedBase:
    """The merged model of another run: its folder and the digest of its files, as that run's description has it."""

    folder: Path
    digest: str


def merged_base(manifest: str | Path) -> MergedBase:
    """Return the merged model that ``manifest``, the facts of its merge, describes.

    Raises:
        SnaketuneError: the one that the merge ended with, if there is no merged model.
        DataError: if a file of it is missing or damaged.
    """
    accepted(manifest)
    return MergedBase(Path(manifest).parent / "merged", digest_of(read_manifest(manifest)["files"]))


def prepare_model(
    cfg: dict[str, Any], output: Path, corpus: Path | None = None, base: MergedBase | None = None, weights: bool = True
) -> dict[str, Any]:
    """Fill the folder ``output`` with the model that ``cfg`` names and return the facts of its manifest.

    Args:
        cfg: ``name_or_path`` (``tiny``, ``smollm2``, ``run:<name>``, a folder, a GGUF file or a hub repository),
            ``revision``, ``trust_remote_code``, ``tiny``.
        output: the model folder; it appears when everything in it is complete and checked.
        corpus: canonical records for a tiny model that learns from the data.
        base: the merged model of the run that ``name_or_path`` names.
        weights: whether they are wanted; a folder or a repository can be planned without.

    Raises:
        ConfigError: if the model cannot be found, reached or used safely.
        DataError: if its files are damaged or its weights not finite.
    """
    from snaketune.model.nature import describe_nature

    trust = cfg["trust_remote_code"]
    with writing_directory(output) as folder:
        origin, source = bring_model(cfg, folder, corpus, base, weights)
        nature = {"kind": "llama", "packing": True} if cfg["name_or_path"] == TINY else describe_nature(folder, trust)
        # What another run made has a card only once that run is finished; the first model's is asked instead.
        stated = {} if base else describe_card(source)
        return {
            **origin,
            **(describe_weights(source) if weights or cfg["name_or_path"] == TINY else describe_shape(folder, cfg)),
            **describe_configuration(folder),
            "nature": nature,
            **({"card": stated} if stated else {}),
        }


def bring_model(
    cfg: dict[str, Any], folder: Path, corpus: Path | None, base: MergedBase | None = None, weights: bool = True
) -> tuple[dict[str, Any], Path]:
    """Fill the empty ``folder``.

    Returns:
        Where the model comes from, in words that hold on every machine, and the folder that holds its weights: the
        user's own where ``folder`` has links, so that an error names a file that the user knows.
    """
    name = cfg["name_or_path"]
    if name == TINY:
        make_tiny_model(cfg["tiny"], corpus, folder)
        return {"kind": "tiny", "name": TINY}, folder
    if base:
        link_model(base.folder, folder, cfg["trust_remote_code"])
        return {"kind": "run", "name": name, "merged_digest": base.digest}, base.folder
    path = Path(name).expanduser()
    if gguf := packaged_file() if name == SMOLLM2 else find_gguf(path):
        return bring_gguf(gguf, folder, weights), folder
    if path.exists() or not REPOSITORY.fullmatch(name):
        link_model(path, folder, cfg["trust_remote_code"], weights)
        return {"kind": "folder", "name": path.resolve().name}, path
    if name == SMOLLM2:
        snapshot = fetch_smollm2(weights)
    else:
        snapshot = fetch_snapshot(name, cfg["revision"], cfg["trust_remote_code"], weights)
    link_model(snapshot.folder, folder, cfg["trust_remote_code"], weights)
    facts = {"repo": snapshot.repo, "revision": snapshot.revision, "commit": snapshot.commit}
    return {"kind": "hub", "name": snapshot.repo, **facts}, snapshot.folder


def bring_gguf(file: Path, folder: Path, weights: bool) -> dict[str, Any]:
    """Fill the empty ``folder`` from a GGUF file, and say on the screen what its weights are."""
    facts = convert_gguf(file, folder, weights)
    if facts.is_quantized:
        print(
            f"{file.name} holds {facts.quantization} weights: training starts from their dequantised values in"
            " bfloat16; how much quality the quantisation cost is unknown.",
            file=sys.stderr,
            flush=True,
        )
    card = {"card": facts.card} if facts.card else {}
    return {"kind": "gguf", "name": facts.name or file.name, "quantization": facts.quantization, **card}


def describe_weights(folder: Path) -> dict[str, Any]:
    """Return number, type and digest of the weights in ``folder``, after checking that all are finite."""
    files = find_weight_files(folder)
    size = count_parameters(files)
    return {"parameters": size.parameters, "dtype": size.dtype, "weights_digest": digest_weights(files)}


def describe_shape(folder: Path, cfg: dict[str, Any]) -> dict[str, Any]:
    """Return what :func:`describe_weights` returns for weights that are not here, from the configuration alone.

    Raises:
        PlanError: if transformers has no causal language model for it.
    """
    from snaketune.plan.counting import count_parameters as parameters_of

    allowed = cfg["trust_remote_code"]
    config = read_configuration(folder, allowed)
    dtype = str(config.dtype).removeprefix("torch.") if config.dtype else "bfloat16"
    return {"parameters": parameters_of(config).total, "dtype": dtype, "weights_digest": None}


def describe_configuration(folder: Path) -> dict[str, Any]:
    """Return the sizes that ``config.json`` states and the digests of the tokenizer and the chat template.

    ``vocab_size`` is the number of rows of the embedding, ``context_length`` the longest sequence in tokens;
    either is ``None`` where the configuration does not say.
    """
    config = read_object(folder / "config.json")
    sizes = {**config, **(config.get("text_config") or {})}
    return {
        "vocab_size": sizes.get("vocab_size"),
        "context_length": next((sizes[key] for key in CONTEXT_KEYS if sizes.get(key)), None),
        "tokenizer_digest": tokenizer_digest(folder),
        "chat_template_digest": chat_template_digest(folder),
    }
