"""The first records of a source: their columns, contents and possible meanings, or the error if there are none."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from snaketune.core.canonical import Json
from snaketune.core.errors import DataError
from snaketune.data.conversations.marked_up_text import awaits_answer, markup_of
from snaketune.data.conversations.role_names import CONTENT_KEYS, ROLE_KEYS, split_turn
from snaketune.data.formats.columns import (
    ANSWER_PAIRS,
    COLUMN_NAMES,
    MAYBE_ANSWERS,
    has_text,
    is_bookkeeping,
    plain_name,
    text_size,
)
from snaketune.data.records.reading_policy import ReadingPolicy
from snaketune.data.sources.blocks import Block

# Control characters other than white space do not occur in text files.
NO_TEXT = bytes(set(range(32)) - set(b"\t\n\r\f\v\b\x1b"))
TO_UTF8 = "for example `iconv -f CP1252 -t UTF-8 FILE > NEW`"

MAIN_NAMES = frozenset(
    (
        *(name for field in ("messages", "prompt", "completion", "text") for name in COLUMN_NAMES[field]),
        *(name for pair in ANSWER_PAIRS for name in pair),
    )
) - set(COLUMN_NAMES["input"])


def is_turns(value: Any, roles: dict[str, str], texts: bool = False) -> bool:
    """Return whether a value is a list of turns; ``texts`` also accepts a list of two or more texts."""
    if type(value) is not list or not value:
        return False
    if texts and len(value) > 1 and all(type(item) is str for item in value):
        return True
    return all(is_turn(item, roles) for item in value)


def is_turn(value: Any, roles: dict[str, str]) -> bool:
    """Return whether a value is an object with a role and a content, or with a text for each side."""
    if type(value) is not dict:
        return False
    if any(type(value.get(key)) is str for key in ROLE_KEYS):
        return any(key in value for key in (*CONTENT_KEYS, "tool_calls", "function_call"))
    return split_turn(value, roles) is not None


def has_answer(value: Any) -> bool:
    """Return whether a value may be an answer: text, a number, true or false, or a value that contains text."""
    return type(value) in (int, float, bool) or has_text(value)


# A column is read as a question, an answer or a context if at least this fraction of its first values can be one. This
# decides which columns are read, and no record is trained or lost by it: each that does not fit is quarantined with its
# line and `wrong_type`, and counted against data.max_bad_fraction. Without a tolerance one odd value (a number, a list)
# among the first records would refuse the whole source; with more than one in ten it is another kind of column, for
# which the person has to decide. Columns in which every value fits come first.
MOST_RECORDS = 0.9


FitsRecords = Callable[[Sequence[Any], Callable[[Any], bool]], bool]


def nearly_all(values: Sequence[Any], is_right: Callable[[Any], bool]) -> bool:
    """Return whether nearly all values are valid; records with other values are quarantined and counted."""
    return bool(values) and sum(map(is_right, values)) >= MOST_RECORDS * len(values)


def every_one(values: Sequence[Any], is_right: Callable[[Any], bool]) -> bool:
    """Return whether all values are valid."""
    return bool(values) and all(map(is_right, values))


@dataclass(frozen=True)
class RecordSample:
    """The records by which a reading is decided: those of the most frequent shape among the first ones.

    Attributes:
        path: what the user calls the source.
        records: at least one; ``places`` are their line numbers.
    """

    path: str
    records: tuple[Json, ...]
    places: tuple[int, ...]
    policy: ReadingPolicy

    @classmethod
    def of(cls, path: str, records: Sequence[Json], places: Sequence[int], policy: ReadingPolicy) -> "RecordSample":
        """Keep the records of the most frequent shape."""
        shapes = [_shape(record, policy) for record in records]
        common = max(Counter(shapes).items(), key=lambda item: (item[1], -shapes.index(item[0])))[0]
        chosen = [index for index, shape in enumerate(shapes) if shape == common]
        return cls(path, tuple(records[i] for i in chosen), tuple(places[i] for i in chosen), policy)

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """Return the non-null values of each named column that is not ignored."""
        found: dict[str, list[Any]] = {}
        for record in self.records:
            for name, value in record.items():
                if name and name not in self.policy.ignore:
                    found.setdefault(name, []).extend([] if value is None else [value])
        return found

    @cached_property
    def named(self) -> dict[str, str]:
        """Return the column of each plain name; of several, the one with exactly that spelling, or the first."""
        found: dict[str, str] = {}
        for name in self.columns:
            if plain_name(name) not in found or name == plain_name(name):
                found[plain_name(name)] = name
        return found

    def having(self, field: str) -> list[str]:
        """Return the non-empty columns whose name is one of a field's names."""
        return [
            self.named[name] for name in COLUMN_NAMES[field] if name in self.named and self.is_filled(self.named[name])
        ]

    def first_fit(self, names: Sequence[str], fits: Callable[[str, FitsRecords], bool]) -> list[str]:
        """Return the columns whose values are all valid, or nearly all if none is and no format is configured."""
        strict = [name for name in names if fits(name, every_one)]
        if strict or self.policy.format != "auto":
            return strict
        return [name for name in names if fits(name, nearly_all)]

    def is_filled(self, name: str) -> bool:
        """Return whether a column has a value that may be an answer."""
        return any(has_answer(value) for value in self.columns[name])

    def share(self, name: str) -> float:
        """Return the fraction of the records that have text in a column."""
        return sum(map(has_text, self.columns[name])) / len(self.records)

    def in_most(self, name: str) -> bool:
        """Return whether more than half of the records have text in a column."""
        return self.share(name) > 1 / 2

    def text_columns(self) -> list[str]:
        """Return the columns with text in most records that are not bookkeeping, those with most text first."""
        found = [
            name
            for name, values in self.columns.items()
            if self.in_most(name) and (not is_bookkeeping(name, values) or self.is_side(name))
        ]
        return sorted(found, key=lambda name: -text_size(self.columns[name]))

    def is_side(self, name: str) -> bool:
        """Return whether a column named source accompanies a target: then it is one side of a translation."""
        return plain_name(name) in ("source", "src") and bool(self.named.keys() & {"target", "targets", "tgt"})

    def numbered_answers(self) -> list[str]:
        """Return the columns named like an answer that hold numbers or booleans in most records."""
        named = [self.named[name] for name in (*COLUMN_NAMES["completion"], *MAYBE_ANSWERS) if name in self.named]
        most = len(self.records) / 2
        return [name for name in named if sum(type(v) in (int, float, bool) for v in self.columns[name]) > most]

    def turn_columns(self) -> list[str]:
        """Return the columns that hold a list of turns in every record that has them, by name and by what they hold."""
        roles = self.policy.roles
        names = [*self.having("messages"), *self.columns]
        found = [name for name in dict.fromkeys(names) if self.columns[name] and self._holds_turns(name, roles)]
        taken = (
            {name for pair in ANSWER_PAIRS for name in pair} | set(COLUMN_NAMES["history"]) | set(COLUMN_NAMES["tools"])
        )
        return [name for name in found if plain_name(name) not in taken]

    def _holds_turns(self, name: str, roles: dict[str, str]) -> bool:
        is_known = plain_name(name) in COLUMN_NAMES["messages"]
        values = self.columns[name]
        if not is_known and not any(has_roles(value) for value in values):
            return False
        # Texts in `turns` may belong to one side, as in lists of questions: they alternate only if configured so.
        texts = is_known and plain_name(name) != "turns"
        good = sum(is_turns(value, roles, texts=texts) or _is_wrapped(value, roles) for value in values)
        return good > len(values) / 2

    def markup(self, name: str) -> str | None:
        """Return the markup in which all texts of a column are conversations, or None."""
        values = self.columns[name]
        return markup_of(values) if values and all(type(value) is str for value in values) else None

    def awaits_answer(self, name: str) -> bool:
        """Return whether most rendered conversations of a column, beside other texts, end before their last answer."""
        values, markup = self.columns[name], self.markup(name)
        if markup is None or len(self.text_columns()) < 2:
            return False
        return sum(awaits_answer(text, markup) for text in values) > len(values) / 2


def has_roles(value: Any) -> bool:
    """Return whether the objects of a list name their speaker, which identifies a conversation in any column."""
    turns = value.get("messages") if type(value) is dict else value
    return type(turns) is list and any(key in turn for turn in turns if type(turn) is dict for key in ROLE_KEYS)


def _is_wrapped(value: Any, roles: dict[str, str]) -> bool:
    return type(value) is dict and is_turns(value.get("messages"), roles)


def _shape(record: Json, policy: ReadingPolicy) -> frozenset[str]:
    named = set(policy.columns.values())
    held = {name for name, value in record.items() if has_answer(value) and name not in policy.ignore}
    return frozenset(name for name in held if plain_name(name) in MAIN_NAMES or name in named)


def no_objects(path: str, blocks: list[Block]) -> DataError:
    """Return the error for a source without any JSON object in its first blocks.

    Args:
        path: what the user calls it.
        blocks: its beginning.
    """
    lines = [item for block in blocks for item in block.items() if type(item) is bytes and item.strip()]
    if any(line.translate(None, NO_TEXT) != line for line in lines):
        return DataError(f"{path} is neither text nor a known file type: give another file in data.sources.")
    values = [_parsed(line) for line in lines]
    if lines and all(type(value) is list and any(type(item) is dict for item in value) for value in values):
        return DataError(
            f"{path} has lists of records on its lines: write one record per line, `jq -c '.[]' FILE > lines.jsonl`."
        )
    if any(not _is_utf8(line) for line in lines):
        return DataError(
            f"{path} is not UTF-8 text: convert it from its encoding, {TO_UTF8} (Japanese systems often have SHIFT_JIS,"
            " Chinese ones GB18030)."
        )
    if any(value is not ... for value in values):
        return DataError(
            f"{path} has no known format: its first lines are JSON but not objects: give another file in data.sources."
        )
    return DataError(
        f"{path} is plain text, not records: to train on all of it as one text, write it as one record,"
        " `jq -Rsc '{text: .}' FILE > text.jsonl`; to train on each line as a separate text, omit the s."
    )


def _parsed(line: bytes) -> object:
    """Return the value of a line, or an ellipsis if it is not JSON."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return ...


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
