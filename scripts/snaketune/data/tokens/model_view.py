"""The first records of a source as a model will see them: rendered, tokenised and masked as in a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.tokens.chunk_tokenizing import ChunkTokenizer, Recipe
from snaketune.data.tokens.chunks import chunks_of


def view_of(records: Sequence[Mapping[str, Any]], recipe: Recipe) -> dict[str, Any]:
    """Return three examples with trained and masked text, lengths, and what is left out; all as facts.

    ``lengths`` are the tokens of each document. ``error`` says why nothing of the source can be tokenised.
    """
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
