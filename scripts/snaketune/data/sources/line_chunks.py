"""The index of a large uncompressed file of lines: where chunks begin, so that a shard reads only its own bytes.

The blocks of all chunks, one after the other, are those of a reading of the whole file. A chunk has a digest of its
own, because a shard that does not read the file from its beginning to its end cannot verify that of the file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import xxhash

from snaketune.data.sources.blocks import Block, LineCutter
from snaketune.data.sources.containers import LINES, recognise
from snaketune.data.sources.contents import opened
from snaketune.data.sources.pieces import Chunk
from snaketune.data.sources.source_files import changed, open_source

# Smaller files are read whole by one shard.
CHUNK_BYTES = 64 << 20
# Larger files have larger chunks, so that the index stays small.
MOST_CHUNKS = 4096


def chunks_of(path: str, place: str | Path, size: int, digest: str) -> list[Chunk]:
    """Return the chunks of a source, read once; none for a small file and for anything but uncompressed lines.

    Args:
        path: the user's name of the source.
        place: the file.
        size: its bytes.
        digest: its XXH3-128, which is verified where there are chunks.

    Raises:
        DataError: if the file cannot be read or has another digest.
    """
    if size <= CHUNK_BYTES:
        return []
    with opened(path, place, "") as content:
        if recognise(content).kind != LINES or content.layers:
            return []
        found = list(_cut(LineCutter(content.stream, path), max(CHUNK_BYTES, -(-size // MOST_CHUNKS))))
        content.finish(digest)
    return found


def _cut(cutter: LineCutter, size: int) -> Iterator[Chunk]:
    start, state = Chunk(1, 0, 0, 0, ""), xxhash.xxh3_128()
    for piece in cutter.cut():
        state.update(piece.content)
        start = replace(start, blocks=start.blocks + 1)
        if cutter.offset - start.offset >= size:
            yield replace(start, digest=state.hexdigest())
            start, state = Chunk(cutter.line, cutter.offset, cutter.position, 0, ""), xxhash.xxh3_128()
    if start.blocks:
        yield replace(start, digest=state.hexdigest())


def blocks_of_chunks(source: int, path: str, place: str | Path, chunks: Sequence[Chunk]) -> Iterator[Block]:
    """Yield the blocks of some chunks of a source, numbered ``source``, as they are cut when the whole file is read.

    Raises:
        DataError: if the file cannot be read, or a chunk has changed since the index was made.
    """
    with open_source(place) as file:
        for chunk in chunks:
            state = xxhash.xxh3_128()
            file.seek(chunk.offset)
            cutter = LineCutter(file, path, start=chunk if chunk.offset else None)
            for piece in islice(cutter.cut(), chunk.blocks):
                state.update(piece.content)
                given = (piece.number, piece.offset, piece.size, piece.size, piece.content)
                yield Block(source, None, path, str(place), *given, is_plain=True)
            if state.hexdigest() != chunk.digest:
                raise changed(path)
