"""Guesses of the question and answer columns among any names, for the line that a refusal suggests."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from snaketune.data.conversations.role_names import CONTENT_KEYS, ROLE_KEYS
from snaketune.data.formats.columns import (
    COLUMN_NAMES,
    MAYBE_ANSWERS,
    MAYBE_QUESTIONS,
    MODALITIES,
    has_text,
    is_bookkeeping,
    last_of,
    plain_name,
    text_size,
)
from snaketune.data.formats.first_records import RecordSample
from snaketune.data.records.field_paths import column_of, value_at, values_beside

MOST_SUGGESTED = 8
# A column with text in at least this fraction of records qualifies: the others are few enough to be quarantined.
NEARLY_ALL = 0.95
ANSWER_COLUMNS = (*COLUMN_NAMES["completion"], *MAYBE_ANSWERS, "chosen")
QUESTIONS = (*COLUMN_NAMES["prompt"], *MAYBE_QUESTIONS)
CERTAIN = frozenset(("chosen", *COLUMN_NAMES["completion"], *COLUMN_NAMES["prompt"], *COLUMN_NAMES["system"]))
CLEAR_QUESTIONS = ("question", "prompt", "instruction", "problem", "input")
OFFERED = (*COLUMN_NAMES["tools"], "function")
# Further names of a question's context, besides those that are recognised without configuration.
ASKED_ABOUT = (
    *("context", "passage", "paragraph", "document", "background", "knowledge", "schema", "db_schema", "ddl"),
    *("create_table", "table", "evidence", "hint", "facts", "article", "source_text"),
)


def texts_of_records(sample: RecordSample) -> list[str]:
    """Return the columns, and paths inside them, with text in most records that are not bookkeeping."""
    found: list[str] = []
    for name in sample.text_columns():
        if plain_name(name) in MODALITIES:
            continue
        if any(type(value) is str for value in sample.columns[name]):
            found.append(name)
        elif plain_name(name) not in OFFERED:
            found += texts_inside(sample, name)
    return found + [name for name in sample.numbered_answers() if name not in found]


def texts_inside(sample: RecordSample, name: str) -> list[str]:
    """Return the first paths inside a column with text in most records, such as ``answers.text[0]``."""
    first = next((value for value in sample.columns[name] if value), None)
    waiting: list[tuple[str, Any]] = [(name, first)]
    found: list[str] = []
    while waiting and len(found) < MOST_SUGGESTED:
        path, value = waiting.pop(0)
        if type(value) is str:
            found.append(path)
        elif type(value) is dict:
            is_turn = any(key in value for key in CONTENT_KEYS)
            waiting += [(f"{path}.{key}", value[key]) for key in value if not (is_turn and key in ROLE_KEYS)]
        elif type(value) is list and value:
            waiting.append((f"{path}[0]", value[0]))
    shares = {
        path: sum(type(value_at(record, path)) is str for record in sample.records) / len(sample.records)
        for path in found
    }
    found = [path for path in found if not is_bookkeeping(path, [value_at(record, path) for record in sample.records])]
    full = [path for path in found if shares[path] >= NEARLY_ALL]
    return full or [path for path in found if shares[path] > 1 / 2]


def well_filled(sample: RecordSample, texts: Sequence[str]) -> list[str]:
    """Return the texts present in nearly all records if these are at least two, otherwise all."""
    numbers = sample.numbered_answers()
    count = len(sample.records)
    full = [
        text
        for text in texts
        if text in numbers or sum(has_text(value_at(record, text)) for record in sample.records) >= NEARLY_ALL * count
    ]
    return full if len(full) > 1 else list(texts)


def answer_inside(sample: RecordSample, columns: Sequence[str]) -> str | None:
    """Return the place in some columns, of any kind, that has the name of an answer and the most text, or None."""
    places = [
        path for name in columns for path in texts_inside(sample, name) if plain_name(last_of(path)) in ANSWER_COLUMNS
    ]
    if places:
        return _longest(sample, places)[0]
    return _among(ANSWER_COLUMNS, [path for name in columns for path in texts_inside(sample, name)])


def rest_of(record: dict[str, Any], pair: Mapping[str, str]) -> list[Any]:
    """Return the paths beside an answer in its column that are not the question."""
    return [value for place, value in values_beside(record, pair["completion"]).items() if place != pair["prompt"]]


def suggested(sample: RecordSample, texts: Sequence[str]) -> dict[str, str]:
    """Return a guess of question and answer among two or more columns with text, for the line to write.

    Names tell them; where they tell neither, the two longest do, in their order. An answer that was chosen goes with
    one that was rejected, and one that was rejected is never the answer.
    """
    rejected = [
        text for text in texts if plain_name(text).startswith("rejected") or plain_name(text).endswith("_rejected")
    ]
    chosen = _among(("chosen",), texts)
    if rejected and chosen and (left := [text for text in texts if text not in (*rejected, chosen)]):
        asked = _among(QUESTIONS, left) or min(left, key=_order(sample, texts))
        return {"prompt": asked, "chosen": chosen, "rejected": rejected[0]}
    texts = [text for text in texts if text not in rejected] if len(texts) - len(rejected) > 1 else texts
    answer = _among(ANSWER_COLUMNS, texts)
    question = _among(QUESTIONS, [text for text in texts if text != answer])
    rest = [text for text in texts if text not in (answer, question)]
    if answer is None and question is None:
        first, second = sorted(_longest(sample, rest)[:2], key=_order(sample, texts))
        return {"prompt": first, "completion": second}
    if question is None:
        question = min(rest, key=_order(sample, texts))
    if answer is None:
        answer = max(rest, key=_order(sample, texts))
    system = _among(COLUMN_NAMES["system"], [text for text in rest if text in sample.columns])
    beside = {"system": system} if system and system not in sample.having("system") else {}
    left = [text for text in rest if text not in (question, answer) and _is_text(sample, text)]
    about = _among(ASKED_ABOUT, left) or next((text for text in left if plain_name(text).endswith("_context")), None)
    return {**beside, "prompt": question, **({"input": about} if about else {}), "completion": answer}


def _is_text(sample: RecordSample, name: str) -> bool:
    return all(type(value) is str for value in sample.columns.get(name, [()]))


def is_told_by_names(sample: RecordSample, texts: Sequence[str]) -> bool:
    """Tell whether the name of a text says which is the answer; a query may be either, as it is in text to SQL."""
    return any(_among(names, texts) for names in (ANSWER_COLUMNS, CLEAR_QUESTIONS))


def _order(sample: RecordSample, texts: Sequence[str]) -> Any:
    columns = list(sample.columns)
    return lambda text: (columns.index(column_of(text) if text not in columns else text), texts.index(text))


def _longest(sample: RecordSample, texts: Sequence[str]) -> list[str]:
    sizes = {text: sum(text_size(value_at(record, text)) for record in sample.records) for text in texts}
    return sorted(texts, key=lambda text: -sizes[text])


def _among(names: tuple[str, ...], texts: Sequence[str]) -> str | None:
    """Return the first text with one of the names; of several inside one column, that of the key, else the column's."""
    columns = [column_of(text) for text in texts]
    called: dict[str, str] = {}
    for text, column in zip(reversed(texts), reversed(columns), strict=True):
        known = plain_name(text if text == column or columns.count(column) == 1 else last_of(text))
        called[plain_name(column) if columns.count(column) == 1 else known] = text
    certain = [name for name in names if name in CERTAIN]
    parts = [name for name in certain if len(name) > 3]
    ways = (
        (called[name] for name in certain if name in called),
        (called[key] for name in parts for key in called if key.endswith(f"_{name}") or key.startswith(f"{name}_")),
        (called[name] for name in names if name in called),
    )
    return next(chain.from_iterable(ways), None)
