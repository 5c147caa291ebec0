"""Tokenising one shard of both splits, which count as one text."""

from collections.abc import Iterator, Mapping
from itertools import accumulate, chain
from pathlib import Path

from snaketune.data.shards import Shard, write_part
from snaketune.data.tokens.chunk_tokenizing import ChunkResult, Recipe
from snaketune.data.tokens.chunks import chunks_of
from snaketune.data.tokens.tokenizing import results_of, select_backend


def tokenize_shard(
    files: Mapping[str, str | Path], recipe: Recipe, shard: Shard, part: str | Path, threads: int = 1
) -> None:
    """Tokenise the shard's chunks of the splits ``{name: records}`` and write the results to the file ``part``.

    Raises:
        ConfigError: if a conversation needs a template and there is none.
    """
    recipe, _ = select_backend(recipe, list(files.values()), threads)
    write_part(part, chain.from_iterable(_results(files, recipe, shard, threads)))


def _results(
    files: Mapping[str, str | Path], recipe: Recipe, shard: Shard, threads: int
) -> Iterator[Iterator[ChunkResult]]:
    sizes = [Path(path).stat().st_size for path in files.values()]
    for (split, path), before in zip(files.items(), accumulate([0, *sizes]), strict=False):
        chunks = [chunk for chunk in chunks_of(path) if shard.holds(before + chunk.start, sum(sizes))]
        if chunks:
            yield results_of(recipe, split, chunks, threads)
