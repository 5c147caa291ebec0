"""YAML lines of the configuration that messages suggest to the user."""

import re
from collections.abc import Iterable, Mapping

PLAIN_SCALAR = re.compile(r"[A-Za-z_][\w.-]*( [\w.-]+)*")
SPECIAL_FOR_SED, OF_SED = re.compile(r"[][/.*^$\\]"), r"\\\g<0>"
WORDS_OF_YAML = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))


def quoted(text: str) -> str:
    """Return a text quoted as needed inside a YAML flow sequence."""
    if PLAIN_SCALAR.fullmatch(text) and text.lower() not in WORDS_OF_YAML:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def columns_line(columns: Mapping[str, str]) -> str:
    """Return ``data.columns: {prompt: question, completion: answer}``."""
    return f"data.columns: {_mapping(columns)}"


def roles_line(roles: Mapping[str, str]) -> str:
    """Return ``data.roles: {guest: user, clerk: assistant}``."""
    return f"data.roles: {_mapping(roles)}"


def ignore_line(names: Iterable[str]) -> str:
    """Return ``data.ignore: [id, lang]``."""
    return f"data.ignore: {_listing(names)}"


def strip_line(marks: Iterable[str]) -> str:
    """Return ``data.strip: ["<|endoftext|>"]``."""
    return f"data.strip: {_listing(marks)}"


def without_marks_command(marks: Iterable[str]) -> str:
    """Return the sed command that removes some texts from a file of JSON lines, with special characters escaped."""
    expressions = " ".join(f"-e 's/{SPECIAL_FOR_SED.sub(OF_SED, mark)}//g'" for mark in marks)
    return f"`sed {expressions} FILE > lines.jsonl`"


def _mapping(items: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{quoted(key)}: {quoted(value)}" for key, value in items.items()) + "}"


def _listing(items: Iterable[str]) -> str:
    return "[" + ", ".join(quoted(item) for item in items) + "]"
