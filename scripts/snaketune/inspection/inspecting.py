"""The facts of `inspect` from the sources of runs; temporary files are removed, and no weights are needed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from snaketune.core.errors import ConfigError, DataError, SnaketuneError
from snaketune.core.manifest import write_manifest
from snaketune.data.formats.inspection import InspectedSource, inspect_sources
from snaketune.data.records.canonical_records import turns_of
from snaketune.data.records.reading_policy import ReadingPolicy
from snaketune.data.tokens.chunk_tokenizing import ChunkTokenizer, Recipe
from snaketune.data.tokens.chunks import chunks_of
from snaketune.model.tokenizer_only import tokenizer_of_texts
from snaketune.settings.data_slices import InspectionSlice

NO_VIEW: dict[str, Any] = {"examples": [], "lengths": [], "left_out": {}, "first_left_out": "", "error": ""}


def inspect_group(group: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """Return the facts of runs that share sources, model and data settings.

    Args:
        group: the names of the ``runs``, their ``sources`` and their configuration ``cfg``.
        scratch: an empty folder.
    """
    cfg, entries = group["cfg"], group["sources"]
    inspected = inspect_sources(entries, ReadingPolicy.of_slice(cfg), scratch)
    model = {"name": cfg["model"]["name_or_path"], "context_length": None, "note": "", "error": ""}
    views = [NO_VIEW] * len(inspected)
    try:
        recipe, facts = _recipe(cfg, inspected, scratch)
        model |= {name: facts[name] for name in ("context_length", "note")}
        views = [view_of(source.records, recipe) if source.records else NO_VIEW for source in inspected]
    except SnaketuneError as error:
        model["error"] = str(error)
    sources = [_facts(source, view) for source, view in zip(inspected, views, strict=True)]
    return {"runs": group["runs"], "model": model, "sources": sources, "not_looked_at": len(entries) - len(inspected)}


def _recipe(cfg: InspectionSlice, inspected: list[InspectedSource], scratch: Path) -> tuple[Recipe, dict[str, Any]]:
    folder = scratch / "model"
    folder.mkdir()
    texts = (text for source in inspected for record in source.records for _, text in turns_of(record))
    facts = tokenizer_of_texts(cfg["model"], folder, texts)
    write_manifest(scratch / "manifest.json", "prepare_tokenizer", [], {"vocab_size": facts["vocab_size"]})
    return Recipe.of_slice(cfg, scratch / "manifest.json", [source.path for source in inspected]), facts


def _facts(source: InspectedSource, view: Mapping[str, Any]) -> dict[str, Any]:
    found = asdict(source)
    return {**found, "records": len(source.records), "view": dict(view)}


def view_of(records: Sequence[Mapping[str, Any]], recipe: Recipe) -> dict[str, Any]:
    """Return facts: three examples with trained and masked text, lengths, and the records left out.

    ``lengths`` are tokens per document. ``error`` is the reason if the source cannot be tokenised at all.
    """
    # The records pass through the tokeniser of the real stage, so the examples cannot differ from a run's.
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "records.jsonl"
            path.write_bytes(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))
            results = [ChunkTokenizer(recipe, "train")(chunk) for chunk in chunks_of(path)]
    except (ConfigError, DataError) as error:
        return {"examples": [], "lengths": [], "left_out": {}, "first_left_out": "", "error": str(error)}
    dropped = [entry for result in results for entry in result.dropped]
    lengths = [np.zeros(0, np.int32), *(result.batch.column("length").to_numpy() for result in results)]
    return {
        "examples": [example for result in results for example in result.examples][:3],
        "lengths": np.concatenate(lengths).tolist(),
        "left_out": dict(sorted(Counter(entry["reason"] for entry in dropped).items())),
        "first_left_out": next((f"line {entry['line']}: {entry['detail']}" for entry in dropped), ""),
        "error": "",
    }
