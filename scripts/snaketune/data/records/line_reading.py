"""The work of each reading process: a block of raw lines becomes canonical records and quarantine entries."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import orjson

from snaketune.data.records.conversion import RecordConverter
from snaketune.data.records.exactness import repetition_check
from snaketune.data.records.parsing import LONGEST_LINE, parse_line
from snaketune.data.records.quarantine import RefusedLine, entry_of
from snaketune.data.records.reading_policy import ReadingPolicy, SourceReading
from snaketune.data.records.seen import SeenColumns
from snaketune.data.sources.blocks import Block

Parser = Callable[[Any, bool], dict[str, Any]]


@dataclass(slots=True)
class BlockResult:
    """The result of reading one block, without blank lines.

    Attributes:
        source: index of the source; ``consumed`` as in the block.
        written: canonical records, ``records`` of them, one JSON object per line.
        refused: quarantine entries; ``reasons`` counts them, ``first`` describes the first.
        seen: unused fields, and the configured columns that were found.
    """

    source: int
    consumed: int
    written: bytes = b""
    records: int = 0
    refused: bytes = b""
    reasons: Counter[str] = field(default_factory=Counter)
    first: str = ""
    seen: SeenColumns = field(default_factory=SeenColumns)


class LineReader:
    """Reads blocks; a block gives the same result in any process."""

    def __init__(self, policy: ReadingPolicy):
        self._policy = policy
        self._readers: dict[SourceReading, tuple[RecordConverter, Parser]] = {}

    def __call__(self, block: Block) -> BlockResult:
        """Convert each line of ``block``, or quarantine it with the reason."""
        reading = block.reading
        if reading is None:
            raise ValueError("the reading of a block is decided before its records are converted")
        if reading not in self._readers:
            converter = RecordConverter(reading, replace(self._policy, columns=dict(reading.named)))
            self._readers[reading] = (converter, self._parser(reading, converter))
        converter, parse = self._readers[reading]
        result = self._read(block, parse)
        result.seen = converter.seen()
        return result

    def _read(self, block: Block, parse: Parser) -> BlockResult:
        lines, result = block.items(), BlockResult(block.source, block.consumed)
        last, source, number = len(lines) - 1, block.source, block.line - 1
        # Attributes are bound to locals: the loop below runs once per record of the data set.
        written, refused = BytesIO(), BytesIO()
        write, dumps, ending = written.write, orjson.dumps, orjson.OPT_APPEND_NEWLINE
        # Offsets are needed only for refused lines, so they are summed up from one refusal to the next.
        reached, offset = 0, block.offset
        for place, content in enumerate(lines):
            number += 1
            # A very long blank line is not skipped but refused as too long: it is damage, not formatting.
            if type(content) is bytes and (not content or (content.isspace() and len(content) <= LONGEST_LINE)):
                continue
            try:
                record = parse(content, place < last)
            except RefusedLine as refusal:
                if offset is not None and block.coding is None:
                    offset += sum(map(len, lines[reached:place])) + place - reached
                reached = place
                refused.write(_entry(block, number, offset, content, refusal))
                result.reasons[refusal.reason] += 1
                result.first = result.first or f"{block.path} {block.unit} {number}: {refusal.reason}, {refusal.detail}"
                continue
            write(dumps({"source": source, "line": number, **record}, option=ending))
            result.records += 1
        result.written, result.refused = written.getvalue(), refused.getvalue()
        return result

    def _parser(self, reading: SourceReading, convert: RecordConverter) -> Parser:
        """Return the function from a raw line to the content of a canonical record; it raises Refusal."""
        check_keys, run = repetition_check(reading), convert.__call__

        def parse(content: Any, complete: bool) -> dict[str, Any]:
            if type(content) is not bytes:
                return run(_object(content))
            record = parse_line(content, complete)
            converted = run(record)
            check_keys(content, record)
            return converted

        return parse


def _object(content: Any) -> dict[str, Any]:
    """Return the object of a table row.

    Raises:
        Refusal: if the row could not be read.
    """
    if isinstance(content, RefusedLine):
        raise content
    found: dict[str, Any] = content
    return found


def _entry(block: Block, number: int, offset: int | None, content: Any, refusal: RefusedLine) -> bytes:
    """Return a quarantine entry; a row without text of its own is shown as JSON, without a byte offset."""
    if block.coding is None:
        return entry_of(block.source, block.path, number, offset, content, refusal)
    raw = content if type(content) is bytes else orjson.dumps(content if type(content) is dict else None)
    return entry_of(block.source, block.path, number, None, raw, refusal)
