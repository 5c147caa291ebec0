"""Conversion of one parsed record to one canonical record according to the reading of its source."""

import re
from typing import Any

from snaketune.core.canonical import Json
from snaketune.data.conversations.conversations import TEMPLATE_KEYS, TurnReader
from snaketune.data.conversations.marked_up_text import without_marks
from snaketune.data.conversations.packed_text import unpacked_columns
from snaketune.data.formats.columns import (
    COLUMN_NAMES,
    JUDGED,
    MODALITIES,
    NO,
    OTHER_SPLITS,
    PLACEHOLDER,
    SPLIT_COLUMNS,
    plain_name,
    text_size,
)
from snaketune.data.formats.formats import BESIDE, KEEP, LABEL, kind_of
from snaketune.data.records.building import Builder
from snaketune.data.records.field_paths import ABSENT, column_of, value_at, values_beside
from snaketune.data.records.fields import JUDGED_WRONG, OTHER_MODALITY
from snaketune.data.records.labels import labelled
from snaketune.data.records.margins import MARGIN, MarginReader
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.records.reading_policy import ReadingPolicy, SourceReading
from snaketune.data.records.seen import SeenColumns
from snaketune.data.templates import ordinary

# Fields of a canonical turn with text besides its content.
INNER_TEXTS = ("reasoning_content", "tool_calls", "name", "tool_plan")
UNUSED_COLUMN, MODALITY, JUDGEMENT = "unused", "modality", "judgement"


class RecordConverter:
    """Converts the records of one source and counts what it uses and ignores, see :meth:`seen`.

    Ordinary records, whose main columns hold plain texts and whose other columns have no meaning, take a fast path.
    """

    def __init__(self, reading: SourceReading, policy: ReadingPolicy):
        self._reading, self._policy = reading, policy
        self._kind = kind_of(reading.format)
        self._inside: dict[str, list[Any]] = {}
        kept = tuple(key for key in TEMPLATE_KEYS if reading.field(key))
        self._turns = TurnReader(policy.roles, kept, self._note)
        wins = frozenset(name for name in ("system",) if name in policy.columns)
        self._builder = Builder(reading, self._turns, policy.pairs, wins, self._note)
        self._build = getattr(self._builder, self._kind)
        self._seen, self._missing = SeenColumns(), self._wanted()
        self._label, self._margin = reading.field(LABEL), MarginReader.of(reading)
        self._columns = self._field_of_columns()
        self._short, self._plain = self._short_way()
        self._is_finished_after = bool(policy.strip or policy.system_prompt)

    def __call__(self, record: Json) -> Json:
        """Return the content of the canonical record.

        Raises:
            Refusal: if it cannot be converted, or is set aside.
        """
        if self._missing:
            self._look_for_named(record)
        if self._reading.packed:
            record = unpacked_columns(record, self._reading.packed)
        # Most records have only plain texts and skip the accounting of columns that other records need.
        if self._plain.issuperset(record) and (found := self._short(record)):
            converted, used = found
            self._seen.used += used
        else:
            converted = self._convert(record)
        if self._label:
            converted = labelled(converted, record, self._label)
        if self._margin:
            converted = {**converted, MARGIN: self._margin(record)}
        return self._finished(converted) if self._is_finished_after else converted

    def _finished(self, converted: Json) -> Json:
        if self._policy.strip:
            converted = _stripped(converted, self._policy.strip)
        if self._policy.system_prompt:
            _add_system_prompt(converted, self._policy.system_prompt)
        return converted

    def seen(self) -> SeenColumns:
        """Return the counts since the last call."""
        seen, self._seen = self._seen, SeenColumns()
        return seen

    def _convert(self, record: Json) -> Json:
        """Account for every column, and convert."""
        given = self._given(record)
        # Unused columns are counted by now, so a record that is ordinary without them can still take the fast path.
        is_plain = all(self._plain.issuperset(names) for names in given.values())
        if is_plain and (found := self._short(record)):
            converted, used = found
            self._seen.used += used
            return converted
        try:
            converted = self._build(record, given)
        finally:
            if self._inside:
                self._note_inside()
        self._seen.used += _size_of_used(converted)
        result: Json = converted
        return result

    def _given(self, record: Json) -> dict[str, list[str]]:
        """Return the columns of each secondary field, and count all other columns as unused."""
        given: dict[str, list[str]] = {}
        rest: dict[str, dict[str, Any]] = {}
        columns = self._columns
        for name in record:
            use = columns.get(name, UNUSED_COLUMN)
            if use == UNUSED_COLUMN:
                self._seen.note(name, record[name])
            elif use == MODALITY:
                self._seen.note(name, record[name])
                _refuse_modality(name, record[name])
            elif use == JUDGEMENT:
                # The column that decides what is kept is used by that decision; any other one is unused.
                if name != self._reading.field(KEEP):
                    self._seen.note(name, record[name])
                refuse_judged(name, record[name])
            elif use:
                given.setdefault(use, []).append(name)
        for use, path in self._inner:
            if value_at(record, path) is not ABSENT:
                given.setdefault(use, []).append(path)
        for path in self._nested:
            for place, value in values_beside(record, path).items():
                # Two paths may lead into one column: what one of them uses is not unused text of the other.
                if not any(_is_within(used, place) for used in self._nested):
                    rest.setdefault(_counted(place), {})[place] = value
        for name, values in rest.items():
            self._seen.note(name, list(values.values()))
        return given

    def _wanted(self) -> set[str]:
        named = {column_of(path) for path in self._policy.columns.values() if path}
        return named | set(map(column_of, self._policy.ignore))

    def _look_for_named(self, record: Json) -> None:
        found = {name for name in self._missing if name in record}
        if found:
            self._missing -= found
            self._seen.found |= found

    def _field_of_columns(self) -> dict[str, str]:
        """Return the use of each meaningful column: the name of a secondary field, or ``""`` for a main field."""
        reading, beside = self._reading, BESIDE[self._kind]
        uses: dict[str, str] = dict.fromkeys(MODALITIES, MODALITY) if self._kind != "text" else {}
        if self._policy.for_training:
            uses |= dict.fromkeys((*JUDGED, *SPLIT_COLUMNS, *reading.judged), JUDGEMENT)
        for name in beside:
            if name not in self._policy.columns and not (self._kind == "messages" and name == "input"):
                uses |= dict.fromkeys(COLUMN_NAMES[name], name)
        # The order of these updates is a precedence: a decision on the column's content overrides its name, and the
        # configuration overrides both.
        uses |= {name: UNUSED_COLUMN for name, _ in reading.known if name not in reading.judged}
        self._inner: list[tuple[str, str]] = []
        named = {name: path for name, path in self._policy.columns.items() if name in beside}
        for name, path in (*reading.fields, *named.items()):
            if name in beside:
                if column_of(path) == path:
                    uses[path] = name
                elif (name, path) not in self._inner:
                    self._inner.append((name, path))
            elif name == "modality":
                uses[path] = MODALITY
            elif name not in TEMPLATE_KEYS and name != KEEP:
                uses[column_of(path)] = ""
        return {**uses, **dict.fromkeys(self._policy.ignore, UNUSED_COLUMN)}

    def _short_way(self) -> tuple[ordinary.ShortWay, frozenset[str]]:
        """Return the fast path for ordinary records, and the columns that it uses."""
        names, reading = dict(self._reading.fields), self._reading
        main = {path for name, path in reading.fields if self._columns.get(path) == ""}
        self._nested = [path for _, path in reading.fields if column_of(path) != path and "[]" not in path]
        if not (self._nested or self._inner or reading.rendered):
            if self._kind == "pair" and main == {names["prompt"], names["completion"]} and not reading.calls:
                extra = names.get("input") or ("input" if self._columns.get("input") == "input" else None)
                short = ordinary.pair(names["prompt"], names["completion"], extra)
                return short, frozenset((*main, extra) if extra else main)
            has_usual_roles = ordinary.ORDINARY_ROLES.isdisjoint(self._policy.roles)
            if self._kind == "messages" and main == {names["messages"]} and has_usual_roles:
                return ordinary.conversation(names["messages"]), frozenset(main)
            if self._kind == "text" and main == {names["text"]}:
                return ordinary.text(names["text"]), frozenset(main)
        return ordinary.never_ordinary, frozenset()

    def _note(self, name: str, value: Any) -> None:
        self._inside.setdefault(name, []).append(value)

    def _note_inside(self) -> None:
        for name, values in self._inside.items():
            self._seen.note(name, values)
        self._inside.clear()


def _size_of_used(converted: Json) -> int:
    """Return the characters of the texts of a canonical record.

    Raises:
        Refusal: if a question has a placeholder for an image.
    """
    used = 0 if len(converted) == 1 and "text" not in converted else _size_beside(converted)
    for turn in converted.get("messages", ()):
        if content := turn["content"]:
            used += len(content)
            if turn["role"] == "user" and "<" in content and (found := PLACEHOLDER.search(content)):
                raise RefusedLine(OTHER_MODALITY, f"a question contains the placeholder {found[0][:40]} of an image")
        if len(turn) > 2:
            used += _size_inside(turn)
    return used


def _size_beside(converted: Json) -> int:
    """Return the characters of the texts of a canonical record besides its messages."""
    answers = (*converted.get("chosen", ()), *converted.get("rejected", ()))
    size = text_size([converted.get("text"), converted.get("tools")])
    return size + sum(len(turn["content"] or "") + _size_inside(turn) for turn in answers)


def _size_inside(turn: Json) -> int:
    """Return the characters of the texts of a canonical turn besides its content."""
    return text_size([turn.get(key) for key in INNER_TEXTS])


def _is_within(path: str, place: str) -> bool:
    """Return whether a path is a place or is inside it."""
    return path == place or (path.startswith(place) and path[len(place)] in ".[")


def _counted(place: str) -> str:
    """Return a place under which to count: all items of a list count as one."""
    return re.sub(r"\[\d+\]$", "[…]", place)


def refuse_judged(name: str, value: Any) -> None:
    """Refuse a record that the data marks as wrong or as part of another split.

    Raises:
        Refusal: with the reason ``judged_wrong``.
    """
    if is_against(name, value):
        raise RefusedLine(JUDGED_WRONG, f"{name!r} is {str(value)[:40]}: the record is not for training")


def is_against(name: str, value: Any) -> bool:
    """Return whether the value of a column means that a record is not for training."""
    if plain_name(column_of(name)) in SPLIT_COLUMNS:
        return type(value) is str and value.strip().lower() in OTHER_SPLITS
    if type(value) is str:
        return value.strip().lower() in NO
    return type(value) in (bool, int, float) and value == 0


def _refuse_modality(name: str, value: Any) -> None:
    if value not in (None, "", [], {}):
        raise RefusedLine(
            OTHER_MODALITY, f"{name!r} is {MODALITIES[plain_name(name)]}, which a text model cannot process"
        )


def _stripped(converted: Json, marks: list[str]) -> Json:
    if "text" in converted:
        return {**converted, "text": _still_text(without_marks(converted["text"], marks), "empty_text")}
    for name in ("messages", "chosen", "rejected"):
        for turn in converted.get(name, ()):
            if type(turn["content"]) is str and turn["content"]:
                turn["content"] = _still_text(without_marks(turn["content"], marks), "empty_completion")
    return converted


def _still_text(text: str, when_empty: str) -> str:
    if not text.strip():
        raise RefusedLine(when_empty, "there is no text besides the markers of data.strip")
    return text


def _add_system_prompt(converted: Json, prompt: str) -> None:
    messages = converted.get("messages")
    if messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": prompt})
