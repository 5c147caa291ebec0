"""The formats, their default columns, and the fields that `data.columns` may name."""

from collections.abc import Mapping
from difflib import get_close_matches

from snaketune.core.errors import ConfigError
from snaketune.core.training_methods import PAIRED
from snaketune.data.conversations.conversations import TEMPLATE_KEYS
from snaketune.data.records.margins import CHOSEN_SCORE, MARGIN, MARGIN_FIELDS, REJECTED_SCORE
from snaketune.data.records.reading_policy import ReadingPolicy, SourceReading

DEFAULTS: dict[str, dict[str, str]] = {
    "messages": {"messages": "messages"},
    "sharegpt": {"messages": "conversations"},
    "preference": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    "instruction": {"prompt": "instruction", "input": "input", "completion": "output"},
    "prompt_completion": {"prompt": "prompt", "completion": "completion"},
    "text": {"text": "text"},
}
KIND_OF_FORMAT = {"sharegpt": "messages", "instruction": "pair", "prompt_completion": "pair"}
# Secondary fields of each kind of record.
BESIDE: dict[str, tuple[str, ...]] = {
    "messages": ("system", "tools", "history", "input"),
    "pair": ("system", "tools", "history", "input", "reasoning"),
    "preference": ("system", "tools", "history", "input"),
    "text": (),
}
MAIN: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations"),
    "pair": ("prompt", "completion", "instruction", "output", "context"),
    "preference": (
        *("prompt", "chosen", "rejected", "instruction", "messages", "conversations", "completion"),
        *MARGIN_FIELDS,
    ),
    "text": ("text",),
}
# Other names of the fields of `data.columns`.
ALIASES = {"instruction": "prompt", "output": "completion", "conversations": "messages", "context": "input"}
KEEP = "keep"
# The label of an answer, for train.method: kto.
LABEL = "label"
ORDER = ("system", "history", "messages", "prompt", "input", "reasoning", "completion", "chosen", "rejected", "text")


def kind_of(format: str) -> str:
    """Return the kind of records of a format: ``messages``, ``pair``, ``preference`` or ``text``."""
    return KIND_OF_FORMAT.get(format, format)


def fields_of(wanted: str) -> list[str]:
    """Return the fields that `data.columns` can name with a format, or with ``auto``."""
    kinds = MAIN if wanted == "auto" else (kind_of(wanted),)
    named = [name for kind in kinds for name in (*MAIN[kind], *BESIDE[kind])]
    keys = [] if kinds == ("text",) else [*TEMPLATE_KEYS, KEEP, LABEL]
    return list(dict.fromkeys([*named, *keys]))


def check_columns(wanted: str, columns: Mapping[str, str]) -> None:
    """Check that ``data.columns`` maps fields that ``data.format`` has.

    Raises:
        ConfigError: naming the nearest field, or what is missing.
    """
    known = fields_of(wanted)
    for name in columns:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}."
            raise ConfigError(f"data.columns: {name!r} is not a column of data.format {wanted}: {hint}")
        if not columns[name]:
            raise ConfigError(f"data.columns: {name} is empty: name the column that it is in the sources.")
    _check_margins(columns)


def _check_margins(columns: Mapping[str, str]) -> None:
    """Refuse one score without the other, and scores beside a margin."""
    scores = [field for field in (CHOSEN_SCORE, REJECTED_SCORE) if field in columns]
    if len(scores) == 1:
        [other] = {CHOSEN_SCORE, REJECTED_SCORE} - set(scores)
        raise ConfigError(
            f"data.columns: {scores[0]} is named and {other} is not: a margin is the difference of both scores; name"
            " both, or remove it."
        )
    if scores and MARGIN in columns:
        raise ConfigError(f"data.columns: {MARGIN} and {scores[0]} both give the margins of pairs: remove one of them.")


def default_reading(format: str, policy: ReadingPolicy) -> SourceReading:
    """Return the reading of a format with its usual or the configured columns."""
    given = {ALIASES.get(name, name): path for name, path in policy.columns.items()}
    fields = {name: given.get(name, column) for name, column in DEFAULTS[format].items()}
    named = tuple(policy.columns.items())
    return SourceReading(format, tuple(fields.items()), named=named, evidence=evidence_of(fields))


def evidence_of(fields: Mapping[str, str]) -> str:
    """Return the use of columns in words: "question/answer read as prompt/completion"."""
    shown = [name for name in (*ORDER, "tools", *TEMPLATE_KEYS, KEEP, LABEL, *MARGIN_FIELDS) if name in fields]
    columns, names = "/".join(fields[name] for name in shown), "/".join(shown)
    return columns if columns == names else f"{columns} read as {names}"


def kinds_for(named: Mapping[str, str], wanted: str | None, method: str) -> tuple[str, ...]:
    """Return the kinds to try, as restricted by the format, the method and the configured fields."""
    if method in PAIRED:
        return ("preference",)
    found = _kinds_of(named, wanted)
    return tuple(kind for kind in found if kind != "text") if method == "kto" else found


def _kinds_of(named: Mapping[str, str], wanted: str | None) -> tuple[str, ...]:
    if wanted:
        return (wanted,)
    if "chosen" in named or "rejected" in named:
        return ("preference",)
    if "messages" in named:
        return ("messages",)
    if "prompt" in named or "completion" in named:
        return ("pair",)
    return ("text",) if "text" in named else ("preference", "messages", "pair", "text")
