"""Errors for sources that cannot be read: what was found, and the configuration line that would read it."""

import re
from collections.abc import Iterable, Mapping, Sequence

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.conversations.role_names import CONTENT_KEYS, ROLE_KEYS, USUAL_ROLES
from snaketune.data.formats.chained_refusals import cured
from snaketune.data.formats.columns import (
    COLUMN_NAMES,
    MAYBE_ANSWERS,
    MAYBE_QUESTIONS,
    VERDICT_COLUMNS,
    has_text,
    plain_name,
)
from snaketune.data.formats.configuration_lines import columns_line, ignore_line
from snaketune.data.formats.first_records import RecordSample
from snaketune.data.formats.format_candidates import FormatCandidate
from snaketune.data.formats.formats import evidence_of
from snaketune.data.formats.suggestions import is_told_by_names, rest_of, suggested, texts_of_records, well_filled
from snaketune.data.formats.unused_fields import Leftovers
from snaketune.data.records.field_paths import ABSENT, column_of, value_at
from snaketune.data.records.fields import listed
from snaketune.data.records.seen import SeenColumns

LONGEST_LIST = 8
# An object with at least this many texts counts as a dictionary.
DICTIONARY = 20
THOUGHTS = re.compile(r"reason|think|thought|rationale|cot$|^cot")
# Keys of an object in a list of pairs.
PAIR_KEYS = frozenset(("source", "target"))
MAIN_FIELDS = ("messages", "prompt", "input", "completion", "chosen", "rejected")


def no_pairs(sample: RecordSample) -> ConfigError:
    """Return the error for a method that needs pairs and a source without any."""
    names = {name: sample.policy.columns.get(name, name) for name in ("chosen", "rejected")}
    return ConfigError(
        f"train.method: {sample.policy.method} learns from pairs, but no record of {sample.path} has"
        f" {names['chosen']!r} and {names['rejected']!r}; found: {listed(sample.columns)}: name the columns in"
        " data.columns, give other sources, or set train.method to sft."
    )


def no_reading(sample: RecordSample) -> DataError:
    """Return the error for a source whose records fit no format."""
    columns = sample.policy.columns
    if absent := [path for path in columns.values() if all(value_at(r, path) is ABSENT for r in sample.records)]:
        return absent_column(absent[0], columns, sample.columns, sample.path)
    if error := _no_records(sample) or _texts_of_turns(sample):
        return error
    texts = well_filled(sample, texts_of_records(sample))
    verdicts = [name for name in sample.columns if plain_name(name) in VERDICT_COLUMNS]
    what = f"its records have {listed(sample.columns)}"
    if texts and (blank := _blank_answer(sample, texts)):
        return DataError(
            f"{sample.path} has no answer, {what}, and {blank!r} is blank. Prompts without answers can serve for "
            "evaluation, or have a model answer them first."
        )
    if len(texts) == 1:
        return DataError(
            f"{sample.path} has no answer column, {what}, and only {texts[0]!r} has text. Prompts without answers can "
            f"serve for evaluation, or have a model answer them first; to train on the text itself, write "
            f"{columns_line({'text': texts[0]})}."
        )
    if texts:
        pair, is_certain = suggested(sample, texts), is_told_by_names(sample, texts)
        turned = {**pair, "prompt": pair.get("completion", ""), "completion": pair["prompt"]}
        other = "" if is_certain else f" or {_with_ignored(turned, verdicts)}"
        error = DataError(
            f"{sample.path} has no known format, {what}: name the question and the answer, for example"
            f" {_with_ignored(pair, verdicts)}{other}{_rest_of_answer(sample, pair)}."
        )
        return cured(error, columns=pair, ignore=[name for name in verdicts if name not in pair.values()])
    return DataError(
        f"{sample.path} has no known format, {what}: set data.format, or name its columns in data.columns, for example"
        " {prompt: question, completion: answer}."
    )


def _blank_answer(sample: RecordSample, texts: Sequence[str]) -> str:
    """Return the column named like an answer that is blank in every record, if no other column may be one."""
    blank = [sample.named[name] for name in COLUMN_NAMES["completion"] if name in sample.named]
    blank = [name for name in blank if not sample.is_filled(name)]
    answers = (*COLUMN_NAMES["completion"], *MAYBE_ANSWERS)
    return blank[0] if blank and not any(plain_name(text) in answers for text in texts) else ""


def _no_records(sample: RecordSample) -> DataError | None:
    """Return the error of a source with token ids, or with its records as the members of one object, or None."""
    if "input_ids" in sample.named and not sample.text_columns():
        return DataError(
            f"{sample.path} has token ids (input_ids) but no text: token ids are only valid for the tokenizer that "
            "made them: give the original text."
        )
    members = list(sample.records[0].values())
    if len(sample.records) == 1 and len(members) >= DICTIONARY and all(type(value) is str for value in members):
        return DataError(
            f"{sample.path} is one object with {len(members)} texts under separate keys: to train on them, write them "
            "as lines, `jq -c 'to_entries[] | {prompt: .key, completion: .value}' FILE > lines.jsonl`."
        )
    if len(sample.records) > 1 or len(members) < 2 or not all(type(value) is dict for value in members):
        return None
    keys = members[0].keys()
    if len(keys) < 2 or any(value.keys() != keys for value in members):
        return None
    return DataError(
        f"{sample.path} is one object whose members are the records, each with {listed(keys)}: write them as lines,"
        " `jq -c '.[]' FILE > lines.jsonl`."
    )


def _texts_of_turns(sample: RecordSample) -> DataError | None:
    """Return the error of a source whose `turns` are texts, which may be those of one side, or None."""
    name = sample.named.get("turns", "")
    values = sample.columns.get(name, [])
    if not values or not all(type(value) is list and len(value) > 1 for value in values):
        return None
    if not all(type(text) is str for value in values for text in value):
        return None
    return DataError(
        f"{sample.path}: {name!r} holds texts without roles: if user and assistant alternate, write"
        f" {columns_line({'messages': name})}. Prompts without answers can serve for evaluation, or have a model "
        "answer them first."
    )


def _rest_of_answer(sample: RecordSample, pair: Mapping[str, str]) -> str:
    """Return what a line leaves out of the column that its answer is a part of, and how all of it becomes one text."""
    if "completion" not in pair:
        return ""
    path, column = pair["completion"], column_of(pair["completion"])
    if path in sample.columns or not any(has_text(rest_of(record, pair)) for record in sample.records):
        return ""
    items = [item for value in sample.columns[column] if type(value) is list for item in value]
    if items and all(type(item) is dict and PAIR_KEYS.issubset(map(plain_name, item)) for item in items):
        change = f'jq -c \'if type == "array" then .[] else . end | .["{column}"][]\' FILE > lines.jsonl'
        return f", which leaves out the rest of {column!r}: to make each of its items a record use `{change}`"
    is_list = all(type(value) is list and all(type(item) is str for item in value) for value in sample.columns[column])
    change = 'join("\\n")' if is_list else "tojson"
    return (
        f", which leaves out the rest of {column!r}: to make all of it one text use"
        f' `jq -c \'if type == "array" then .[] else . end | .["{column}"] |= {change}\' FILE > lines.jsonl`'
    )


def _with_ignored(columns: Mapping[str, str], verdicts: Iterable[str]) -> str:
    """Return the line that names the columns, with one that leaves out what would be taken for a verdict."""
    ignored = [name for name in verdicts if name not in columns.values()]
    return columns_line(columns) + (f" with {ignore_line(ignored)}" if ignored else "")


def absent_column(path: str, columns: Mapping[str, str], found: Iterable[str], place: str) -> DataError:
    """Return the error for a configured column that no record has."""
    canonical = next(key for key, value in columns.items() if value == path)
    return DataError(
        f"data.columns: no record of {place} has {path!r}, needed as the {canonical}; found: {listed(found)}:"
        " correct the name."
    )


def one_message_a_line(sample: RecordSample) -> DataError | None:
    """Return the error of a source that has one message of a conversation on each line, or None."""
    role = next((sample.named[key] for key in (*ROLE_KEYS, "author") if key in sample.named), None)
    content = next((sample.named[key] for key in CONTENT_KEYS if key in sample.named), None)
    if not role or not content or not all(type(value) is str for value in sample.columns[content]):
        return None
    names = {value for value in sample.columns[role] if type(value) is str}
    if not any(name.lower() in USUAL_ROLES for name in names) and (role != "role" or len(names) > LONGEST_LIST):
        return None
    return DataError(
        f"{sample.path} has one message of a conversation on each line ({role}, {content}): collect the messages of "
        "each conversation in one record, {messages: [{role: user, content: …}, …]}; docs/data.md has a program for "
        "this."
    )


def doubtful(sample: RecordSample, found: FormatCandidate, left: Leftovers, seen: SeenColumns) -> DataError:
    """Return the error of a reading that leaves text out or that another one would fit as well."""
    fields = dict(found.fields)
    if others := {name: columns for name, columns in (found.others or {}).items() if columns}:
        return _several_readings(sample, fields, others)
    shares = ", ".join(
        f"{name} ({seen.unused[name][1]} of the first {len(sample.records)} records,"
        f" {100 * seen.share(name):.0f}% of the text)"
        for name in left.lost
    )
    use = _use(sample, found, left.lost)
    lines = f"{columns_line(use)} to use it, or " if use else ""
    ignore = list(dict.fromkeys([*sample.policy.ignore, *left.lost]))
    error = DataError(
        f"{sample.path}, {evidence_of(fields)}, has text that would not be used: {shares}: write "
        f"{lines}{ignore_line(ignore)} to leave it out."
    )
    return cured(error, **({"columns": use} if use else {"ignore": ignore}))


def _several_readings(sample: RecordSample, fields: dict[str, str], others: Mapping[str, tuple[str, ...]]) -> DataError:
    shown = {name: path for name, path in fields.items() if name in MAIN_FIELDS}
    ways = [shown]
    for name, columns in others.items():
        ways += [{**shown, name: column, **_nearest(sample, name, column, fields, others)} for column in columns]
    lines = list(dict.fromkeys(columns_line(way) for way in ways))
    doubts = "; ".join(
        f"{' and '.join(map(repr, (fields[name], *columns)))} could be its {name}" for name, columns in others.items()
    )
    error = DataError(
        f"{sample.path} can be read in {len(lines)} ways, since {doubts}: write {' or '.join(lines)}; columns not "
        "named there are not used."
    )
    return cured(error, columns=shown)


def _nearest(
    sample: RecordSample, name: str, column: str, fields: Mapping[str, str], others: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """Return the answer that follows a question in the order of the columns, where there is a choice of answers."""
    if name != "prompt" or "completion" not in others:
        return {}
    order = list(sample.columns)
    answers = [fields["completion"], *others["completion"]]
    later = [answer for answer in answers if order.index(answer) > order.index(column)]
    return {"completion": min(later, key=order.index)} if later else {}


def _use(sample: RecordSample, found: FormatCandidate, lost: Sequence[str]) -> dict[str, str]:
    """Return the suggested line that uses the unused columns, as far as it can be guessed."""
    fields, first = dict(found.fields), lost[0]
    if found.kind == "preference" and not fields.keys() & {"prompt", "messages"}:
        return {"prompt": first, **{name: fields[name] for name in ("chosen", "rejected") if name in fields}}
    if keys := [name for name in lost if name.endswith(("[].name", "[].tool_plan"))]:
        return {name.rsplit(".", 1)[1]: name for name in keys}
    if found.kind == "text":
        return _as_pair(sample, [fields["text"], *(name for name in lost if name in sample.columns)])
    shown = {name: path for name, path in fields.items() if name in MAIN_FIELDS}
    if any(type(value) is not str for value in sample.columns.get(first, [()])):
        return {}
    if found.kind == "pair" and THOUGHTS.search(plain_name(first)):
        return {**shown, "reasoning": first}
    is_context = plain_name(first) in (*COLUMN_NAMES["input"], *MAYBE_QUESTIONS)
    return {**shown, "input": first} if is_context and "input" not in fields else {}


def _as_pair(sample: RecordSample, texts: Sequence[str]) -> dict[str, str]:
    """Return question and answer among a text and the columns beside it, where one of these is called like either."""
    meaning = (*COLUMN_NAMES["prompt"], *COLUMN_NAMES["completion"], *MAYBE_ANSWERS, *MAYBE_QUESTIONS)
    thoughts = [name for name in texts if THOUGHTS.search(plain_name(name))]
    spoken = [name for name in texts if name not in thoughts]
    if not any(plain_name(name) in meaning for name in spoken[1:]):
        is_pair = len(texts) == len(spoken) == 2 and type(next(iter(sample.columns[spoken[1]]), None)) is str
        return {"prompt": spoken[0], "completion": spoken[1]} if is_pair else {}
    pair = suggested(sample, spoken)
    if "completion" not in pair:
        return pair
    rest = [name for name in spoken if name not in pair.values() and plain_name(name) in meaning]
    asked = {"input": name} if (name := pair.get("input") or next(iter(rest), "")) else {}
    beside = {**asked, **({"reasoning": thoughts[0]} if thoughts else {})}
    return {"prompt": pair["prompt"], **beside, "completion": pair["completion"]}
