"""A block of raw lines to canonical records and quarantine: what each process does, and what reading costs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import orjson

from snaketune.data.blocks import Block
from snaketune.data.conversations import RARE_KEYS
from snaketune.data.formats import FORMATS, Converter, Format, converter_of
from snaketune.data.parsing import LONGEST_LINE, escaped_key, needles, parse_line, refuse_escaped, refuse_repeated
from snaketune.data.quarantine import Refusal, entry_of

KNOWN_COLUMNS = 1000

Parser = Callable[[bytes, bool, set[str]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ReadingPolicy:
    """How lines are read: the ``data`` section of the configuration, and whether the method learns from pairs."""

    format: str = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    system_prompt: str | None = None
    max_bad_fraction: float = 0.05
    pairs: bool = False

    @classmethod
    def of_slice(cls, cfg: dict[str, Any]) -> "ReadingPolicy":
        """Return the policy in a stage's configuration slice."""
        return cls(**cfg["data"], pairs=cfg.get("train", {}).get("method") == "dpo")


@dataclass(slots=True)
class BlockResult:
    """What became of the lines of one block; blank lines do not count.

    Attributes:
        source: index of the source; ``consumed`` as in the block.
        written: canonical records, ``records`` of them, one JSON object per line.
        refused: lines of the quarantine; ``reasons`` counts them, ``first`` is the first in words.
        columns: what the records have, at most about 1,000, and which of the wanted ones.
    """

    source: int
    consumed: int
    written: bytes = b""
    records: int = 0
    refused: bytes = b""
    reasons: Counter[str] = field(default_factory=Counter)
    first: str = ""
    columns: set[str] = field(default_factory=set)


class LineReader:
    """Reads blocks; the same block gives the same result in any process."""

    def __init__(self, policy: ReadingPolicy):
        self._policy = policy
        self._parsers: dict[str, Parser] = {}

    def __call__(self, block: Block) -> BlockResult:
        """Convert each line of ``block`` or set it aside with its reason."""
        if block.form not in self._parsers:
            self._parsers[block.form] = self._parser(FORMATS[block.form])
        return self._read(block, self._parsers[block.form])

    def _read(self, block: Block, parse: Parser) -> BlockResult:
        lines, result = block.lines(), BlockResult(block.source, block.consumed)
        last, source, number = len(lines) - 1, block.source, block.line - 1
        written, refused, columns = BytesIO(), BytesIO(), result.columns
        write, dumps, ending = written.write, orjson.dumps, orjson.OPT_APPEND_NEWLINE
        reached, offset = 0, block.offset
        for place, content in enumerate(lines):
            number += 1
            if not content or (content.isspace() and len(content) <= LONGEST_LINE):
                continue
            try:
                record = parse(content, place < last, columns)
            except Refusal as refusal:
                offset += sum(map(len, lines[reached:place])) + place - reached
                reached = place
                refused.write(entry_of(source, block.path, number, offset, content, refusal))
                result.reasons[refusal.reason] += 1
                result.first = result.first or f"{block.path} line {number}: {refusal.reason}, {refusal.detail}"
                continue
            write(dumps({"source": source, "line": number, **record}, option=ending))
            result.records += 1
        result.written, result.refused = written.getvalue(), refused.getvalue()
        return result

    def _parser(self, form: Format) -> Parser:
        """Return the function from a raw line to the content of a canonical record; it raises Refusal."""
        names = form.names(self._policy.columns)
        convert = _with_system_prompt(converter_of(form, names, self._policy.pairs), self._policy.system_prompt)
        check_keys = _repetition_check(form, names)
        wanted = set(self._policy.columns.values())

        def parse(content: bytes, complete: bool, columns: set[str]) -> dict[str, Any]:
            record = parse_line(content, complete)
            if not columns.issuperset(record):
                columns.update(record if len(columns) < KNOWN_COLUMNS else wanted.intersection(record))
            converted = convert(record)
            check_keys(content, record)
            return converted

        return parse


def _repetition_check(form: Format, names: dict[str, str]) -> Callable[[bytes, dict[str, Any]], None]:
    """Return the check of a line for columns, or keys of a turn, that are written twice.

    A line with as many colons as keys has none twice; others have colons in their texts, or nested objects.
    """
    required = needles(names[name] for name in form.required)
    optional = [(names[name], needles([names[name]])) for name in form.optional]
    columns = [names[name] for name in form.turns]
    inner, rare = needles(form.inner), needles((*form.inner, *RARE_KEYS))
    every = frozenset((*names.values(), *form.inner, *(RARE_KEYS if form.turns else ())))
    escaped = escaped_key(every)

    def check(content: bytes, record: dict[str, Any]) -> None:
        turns: list[dict[str, Any]] = []
        for name in columns:
            if type(found := record.get(name)) is list:
                turns = turns + found if turns else found
        inside = sum(map(len, turns))
        if content.count(b":") == len(record) + inside:
            return
        refuse_escaped(content, every, escaped)
        for needle in required:
            if content.count(needle) > 1:
                refuse_repeated(content, required)
        for name, quoted in optional:
            if name in record:
                refuse_repeated(content, quoted)
        if not columns:
            return
        refuse_repeated(content, inner, once=len(turns))
        if inside > 2 * len(turns):
            refuse_repeated(content, rare)

    return check


def _with_system_prompt(convert: Converter, prompt: str | None) -> Converter:
    if not prompt:
        return convert

    def with_prompt(record: dict[str, Any]) -> dict[str, Any]:
        converted = convert(record)
        messages = converted.get("messages")
        if messages and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": prompt})
        return converted

    return with_prompt
