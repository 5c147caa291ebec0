"""Candidates for the format of a source: the columns of each kind of record, found by name and by content."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from snaketune.data.conversations.marked_up_text import markup_of
from snaketune.data.conversations.role_names import ROLE_KEYS, SPEAKING
from snaketune.data.conversations.tool_use import is_calls
from snaketune.data.formats.columns import ANSWER_PAIRS, COLUMN_NAMES, plain_name
from snaketune.data.formats.first_records import FitsRecords, RecordSample, has_roles, is_turns, nearly_all
from snaketune.data.formats.formats import ALIASES
from snaketune.data.records.field_paths import ABSENT, value_at
from snaketune.data.records.reading_policy import ANSWER_TEXTS, Ranking, scores_of


@dataclass(frozen=True, slots=True)
class FormatCandidate:
    """One way to read the records: a kind, its columns, and what decides between several answers.

    Attributes:
        others: columns that would serve as well for one of the fields: the reading is not certain.
        calls: whether answers are calls of the record's tools.
    """

    kind: str
    fields: Mapping[str, str]
    rendered: str = ""
    ranking: Ranking | None = None
    single: tuple[str, ...] = ()
    others: Mapping[str, tuple[str, ...]] | None = None
    calls: bool = False


def named_fields(sample: RecordSample) -> dict[str, str]:
    """Return the fields of `data.columns` that occur in the sample."""
    given = {ALIASES.get(name, name): path for name, path in sample.policy.columns.items()}
    return {name: path for name, path in given.items() if _is_there(sample, path)}


def _is_there(sample: RecordSample, path: str) -> bool:
    if "[]." in path:
        path, _, key = path.partition("[].")
        lists = [value_at(record, path) for record in sample.records]
        return any(type(turn) is dict and key in turn for turns in lists if type(turns) is list for turn in turns)
    return any(value_at(record, path) is not ABSENT for record in sample.records)


def candidate(sample: RecordSample, named: Mapping[str, str], kinds: tuple[str, ...]) -> FormatCandidate | None:
    """Return the best candidate for the sample among ``kinds``, tried in this order, with the configured fields."""
    makers = {"preference": _preference, "messages": _messages, "pair": _pair, "text": _text}
    for kind in kinds:
        if found := makers[kind](sample, named):
            return found
    return None


def _preference(sample: RecordSample, named: Mapping[str, str]) -> FormatCandidate | None:
    if {"chosen", "rejected"} <= named.keys():
        answers = {name: named[name] for name in ("chosen", "rejected")}
    # A configured field takes precedence over the detected one, and the other half of the pair is completed.
    elif pair := _answer_pair(sample):
        answers = {"chosen": named.get("chosen", pair[0]), "rejected": named.get("rejected", pair[1])}
    else:
        return _ranking(sample, named)
    asked, others = _asked(sample, named)
    texts = [value_at(record, path) for path in answers.values() for record in sample.records]
    markup = markup_of(texts) if all(type(text) is str for text in texts) else None
    if markup is None and (prompt := asked.get("prompt")) in sample.columns and sample.awaits_answer(prompt):
        markup = sample.markup(prompt)
    return FormatCandidate("preference", {**asked, **answers}, rendered=markup or "", others=others)


def _answer_pair(sample: RecordSample) -> tuple[str, str] | None:
    for one, other in ANSWER_PAIRS:
        if one in sample.named and other in sample.named:
            found = sample.named[one], sample.named[other]
            if all(sample.in_most(name) for name in found):
                return found
    return None


def _asked(sample: RecordSample, named: Mapping[str, str]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return the columns of the question (turns, or texts with their context), and equally good alternatives."""
    others: dict[str, tuple[str, ...]] = {}
    fields: dict[str, str] = {}
    if "prompt" in named:
        fields["prompt"] = named["prompt"]
    elif "messages" in named:
        fields["messages"] = named["messages"]
    # A list of turns under a usual name, else texts called like a question, else any list that awaits an answer.
    elif turns := [name for name in _open_turns(sample) if plain_name(name) in COLUMN_NAMES["messages"]]:
        fields["messages"] = turns[0]
    elif found := _questions(sample):
        fields["prompt"] = found[0]
        others |= {"prompt": tuple(found[1:])} if len(found) > 1 else {}
    elif turns := _open_turns(sample):
        fields["messages"] = turns[0]
    return {**fields, **_beside(sample, named, {*named.values(), *fields.values()}, others)}, others


def _questions(sample: RecordSample) -> list[str]:
    """Return the columns of questions; ``input`` counts only if there is no other, whose context it would be."""
    found = sample.first_fit(sample.having("prompt"), lambda name, fit: _is_question(sample, name, fit))
    # In Alpaca's layout ``input`` is the context of ``instruction``, and the question only where that is blank.
    if [plain_name(name) for name in found] == ["input"]:
        blank = [sample.named[name] for name in COLUMN_NAMES["prompt"][:5] if name in sample.named]
        return blank[:1] or found
    return [name for name in found if plain_name(name) != "input"]


def _is_question(sample: RecordSample, name: str, fit: FitsRecords) -> bool:
    values = [value for value in sample.columns[name] if value not in ("", [])]
    return fit(values, lambda value: type(value) is str or is_turns(value, sample.policy.roles))


def _beside(
    sample: RecordSample, named: Mapping[str, str], taken: set[str], others: dict[str, tuple[str, ...]]
) -> dict[str, str]:
    """Return the columns of the secondary fields, unless they are in use already."""
    found: dict[str, str] = {}
    for field in ("system", "history", "input", "tools"):
        if field in named:
            found[field] = named[field]
            continue
        names = [name for name in sample.having(field) if name not in taken]
        if field == "input":
            names = sample.first_fit(names, lambda name, fit: fit(sample.columns[name], _is_context))
        if names:
            found[field] = names[0]
            if len(names) > 1 and field == "input":
                others[field] = tuple(names[1:])
    return found


def _is_context(value: Any) -> bool:
    return type(value) is str or (type(value) is list and all(type(item) is str for item in value))


def _messages(sample: RecordSample, named: Mapping[str, str]) -> FormatCandidate | None:
    columns = [named["messages"]] if "messages" in named else sample.turn_columns()
    columns = [name for name in columns if "messages" in named or not _is_half(sample, name)]
    if not columns:
        return _rendered(sample, named)
    kept = {name: named[name] for name in ("name", "tool_plan", "keep") if name in named}
    others: dict[str, tuple[str, ...]] = {}
    beside = _beside(sample, named, {columns[0]}, others)
    if "input" not in named:
        beside.pop("input", None)
    if (
        not any(plain_name(name) in COLUMN_NAMES["messages"] for name in columns)
        and "messages" not in named
        and _answer_pair(sample)
    ):
        return None
    return FormatCandidate("messages", {"messages": columns[0], **beside, **kept}, others={})


def _is_half(sample: RecordSample, name: str) -> bool:
    """Return whether a list of turns is the question of an answer in another column."""
    is_pair = plain_name(name) in COLUMN_NAMES["prompt"] and bool(sample.having("completion"))
    is_pair |= plain_name(name) in COLUMN_NAMES["completion"] and bool(sample.having("prompt"))
    return is_pair or (_is_open(sample, name) and (bool(_answer_pair(sample)) or bool(sample.having("completion"))))


def _open_turns(sample: RecordSample) -> list[str]:
    return [name for name in sample.turn_columns() if _is_open(sample, name)]


def _is_open(sample: RecordSample, name: str) -> bool:
    """Return whether lists of turns end in a turn before an answer: a question or a tool result."""
    lists = [value.get("messages") if type(value) is dict else value for value in sample.columns[name]]
    values = [value for value in lists if type(value) is list and value and type(value[-1]) is dict]
    last = [next((v[-1][key] for key in ROLE_KEYS if type(v[-1].get(key)) is str), "") for v in values]
    return bool(last) and all(name.lower() in SPEAKING for name in last)


def _rendered(sample: RecordSample, named: Mapping[str, str]) -> FormatCandidate | None:
    """Return a candidate of conversations written as text in the markup of a chat template."""
    texts = [name for name in sample.text_columns() if sample.markup(name) and not sample.awaits_answer(name)]
    if len(texts) != 1 or "text" in named:
        return None
    beside = _beside(sample, named, {texts[0]}, {})
    beside.pop("input", None)
    return FormatCandidate("messages", {"messages": texts[0], **beside}, rendered=sample.markup(texts[0]) or "")


def _pair(sample: RecordSample, named: Mapping[str, str]) -> FormatCandidate | None:
    asked, others = _asked(sample, named)
    turns = asked.pop("messages", None)
    if turns and "prompt" not in asked:
        asked = {"prompt": turns, **asked}
    if "prompt" not in asked:
        return None
    taken = set(asked.values())
    kept = {name: named[name] for name in ("keep",) if name in named}
    reasoning = named.get("reasoning") or next((name for name in sample.having("reasoning") if name not in taken), None)
    rest = {**asked, **({"reasoning": reasoning} if reasoning else {}), **kept}
    if "completion" in named:
        return FormatCandidate(
            "pair",
            {**rest, "completion": named["completion"]},
            _joint(sample, asked["prompt"], named["completion"]),
            others=others,
            calls="tools" in rest and _holds_calls(sample, named["completion"]),
        )
    answers = [name for name in sample.having("completion") if name not in taken]
    if not answers:
        return None
    # With tools, a column of calls comes before texts; a text beside it in most records makes the reading uncertain.
    if called := [name for name in answers if "tools" in rest and _holds_calls(sample, name)]:
        rivals = tuple(name for name in answers if name != called[0] and sample.in_most(name))
        others |= {"completion": rivals} if rivals else {}
        return FormatCandidate("pair", {**rest, "completion": called[0]}, others=others, calls=True)
    is_answer = partial(_is_answer, sample=sample)
    plain_ones = sample.first_fit(answers, lambda name, fit: fit(sample.columns[name], is_answer))
    if plain_ones:
        others |= {"completion": tuple(plain_ones[1:])} if len(plain_ones) > 1 else {}
        markup = _joint(sample, asked["prompt"], plain_ones[0])
        return FormatCandidate("pair", {**rest, "completion": plain_ones[0]}, markup, others=others)
    return _single(sample, rest, answers, others)


def _holds_calls(sample: RecordSample, path: str) -> bool:
    return any(is_calls(value_at(record, path)) for record in sample.records)


def _is_answer(value: Any, sample: RecordSample) -> bool:
    turns = value if type(value) is list else [value]
    return type(value) in (str, int, float, bool) or (has_roles(turns) and is_turns(turns, sample.policy.roles))


def _joint(sample: RecordSample, prompt: str, completion: str) -> str:
    """Return the markup in which prompt and completion together form a conversation."""
    pairs = [(value_at(record, prompt), value_at(record, completion)) for record in sample.records]
    if not nearly_all(pairs, lambda pair: type(pair[0]) is type(pair[1]) is str):
        return ""
    return markup_of(one + other for one, other in pairs if type(one) is type(other) is str) or ""


def _single(
    sample: RecordSample, rest: dict[str, str], answers: list[str], others: dict[str, tuple[str, ...]]
) -> FormatCandidate | None:
    """Return a candidate whose answer is the only item of a list: a text, or an object with an output."""
    for name in answers:
        items = [value for value in sample.columns[name] if type(value) is list]
        # Several answers in one record have no order of merit, so only lists of exactly one item qualify.
        if len(items) != len(sample.records) or any(len(value) != 1 for value in items):
            continue
        firsts = [value[0] for value in items]
        if all(type(first) is str for first in firsts):
            return FormatCandidate("pair", {**rest, "completion": f"{name}[0]"}, single=(name,), others=others)
        keys = [
            key for key in ("output", *ANSWER_TEXTS) if all(type(first) is dict and key in first for first in firsts)
        ]
        if keys:
            inner = {"completion": f"{name}[0].{keys[0]}"}
            if all("input" in first for first in firsts) and "input" not in rest:
                inner["input"] = f"{name}[0].input"
            return FormatCandidate("pair", {**rest, **inner}, single=(name,), others=others)
    return None


def _ranking(sample: RecordSample, named: Mapping[str, str]) -> FormatCandidate | None:
    """Return a preference candidate with a list of answers: two texts, the better one first, or scored answers."""
    asked, others = _asked(sample, named)
    names = (
        [named["completion"]]
        if "completion" in named
        else [n for n in sample.having("completion") if n not in asked.values()]
    )
    # Ranked answers without their question would be trained without a prompt.
    if not asked.keys() & {"prompt", "messages"}:
        return None
    for name in names:
        values = [value for value in sample.columns.get(name, []) if type(value) is list and value]
        if len(values) != len(sample.records):
            continue
        if plain_name(name) == "output" and all(len(v) == 2 and all(type(item) is str for item in v) for v in values):
            return FormatCandidate("preference", {**asked, "completion": name}, ranking=Ranking(), others=others)
        if ranking := scores_of(values):
            return FormatCandidate("preference", {**asked, "completion": name}, ranking=ranking, others=others)
    return None


def _text(sample: RecordSample, named: Mapping[str, str]) -> FormatCandidate | None:
    if "text" in named:
        return FormatCandidate("text", {"text": named["text"]})
    found = [name for name in sample.having("text") if any(type(value) is str for value in sample.columns[name])]
    return FormatCandidate("text", {"text": found[0]}) if found else None
