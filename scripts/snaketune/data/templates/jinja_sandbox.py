"""The Jinja environment for chat templates: that of transformers, with limits and with a fixed date.

Functions, filters and extensions are those of ``apply_chat_template`` (``raise_exception``, ``strftime_now``,
``tojson``, ``dict``, ``namespace``, ``{% generation %}``, loop controls), in the same immutable sandbox. Two things
differ: ``strftime_now`` writes the configured date, so results do not depend on the day of the run, and no single
expression can build more text than a limit.
"""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import pairwise
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from snaketune.core.errors import ConfigError, DataError

# Maximum number of characters of a rendered conversation, far above the longest context of any model.
LONGEST_OUTPUT = 64 << 20
# Methods and filters that inspect the characters of a text, beyond stripping white space.
LOOKING_METHODS = frozenset(
    {"startswith", "endswith", "find", "rfind", "index", "split", "rsplit", "partition", "rpartition", "splitlines"}
    | {"replace", "count", "isalpha", "isdigit", "isalnum", "isspace", "isupper", "islower", "removeprefix"}
    | {"removesuffix", "lower", "upper", "title", "capitalize"}
)
# Keys that templates look up in a message, a call or a tool, rather than substrings of a text.
KEYS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "function", "arguments", "parameters", "type", "text"}
    | {"reasoning_content", "thinking", "reasoning", "tools", "documents", "description", "properties", "required"}
)
_LISTED = (nodes.List, nodes.Tuple)
LOOKING_FILTERS = frozenset({"replace", "length", "count", "list", "first", "last", "select", "reject", "truncate"})


@dataclass(slots=True)
class Notes:
    """The text rendered so far, its ``size`` in characters, and its spans inside ``{% generation %}`` blocks."""

    blocks: list[str] = field(default_factory=list)
    size: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)


class _Generation(Extension):
    """The ``{% generation %}`` tag: records where its text ends up in the output."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def __init__(self, environment: jinja2.Environment):
        super().__init__(environment)
        environment.extend(notes=Notes())
        environment.filters["_note_generation"] = self._note

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A filter is called directly; the macro that transformers uses for this takes several times as long.
        note = nodes.Filter(None, "_note_generation", [], [], None, None)
        return nodes.FilterBlock(body, note).set_lineno(line)

    def _note(self, text: str) -> str:
        notes: Notes = self.environment.notes  # type: ignore[attr-defined]
        notes.spans.append((notes.size, notes.size + len(text)))
        return text


class _Namespace(jinja2.utils.Namespace):
    """A namespace without underscore-prefixed attributes, as in transformers."""

    def __init__(*args: Any, **kwargs: Any):
        self, args = args[0], args[1:]
        values = dict(*args, **kwargs)
        for name in values:
            _check_attribute(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


class _Dict:
    """``dict(...)`` and ``dict.fromkeys(...)`` without access to the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, in which no single operator can build more than :data:`LONGEST_OUTPUT` characters."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse an operation that would exhaust memory before it is computed; see :mod:`jinja2.sandbox`."""
        if operator == "*":
            sizes = [len(part) for part in (left, right) if isinstance(part, str | list | tuple)]
            numbers = [part for part in (left, right) if isinstance(part, int)]
            if sizes and numbers and sizes[0] * numbers[0] > LONGEST_OUTPUT:
                raise jinja2.exceptions.SecurityError(f"a text of {sizes[0] * numbers[0]:,} characters is too long")
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and right > 10_000:
            raise jinja2.exceptions.SecurityError("a power with an exponent over 10,000 is too large")
        return super().call_binop(context, operator, left, right)


def compile_template(source: str, day: str) -> jinja2.Template:
    """Return the compiled template; ``template.environment.notes`` holds its :class:`Notes`.

    Args:
        source: the Jinja text.
        day: the date that ``strftime_now`` writes, as YYYY-MM-DD.

    Raises:
        ConfigError: if it is not valid Jinja, with the line.
    """
    environment = _environment(day)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        reason = f"line {error.lineno} is not valid Jinja ({error.message})"
    except (SyntaxError, RecursionError, MemoryError, ValueError, AssertionError, jinja2.TemplateError) as error:
        reason = f"it cannot be compiled ({type(error).__name__}: {_first_line(error)})"
    raise ConfigError(f"tokens.chat_template: {reason}: correct the template.") from None


def _environment(day: str) -> ImmutableSandboxedEnvironment:
    environment = _BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    moment = datetime.combine(date.fromisoformat(day), datetime.min.time())
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda pattern: moment.strftime(pattern)
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment


def block_tags(environment: jinja2.Environment, source: str) -> set[str]:
    """Return the names of the block tags in ``source``, ignoring comments and raw text."""
    tokens = [(kind, value) for _, kind, value in environment.lex(source) if kind != "whitespace"]
    return {value for (kind, _), (_, value) in pairwise(tokens) if kind == "block_begin"}


def looks_inside(environment: jinja2.Environment, source: str) -> bool:
    """Return whether the output of the template may depend on the characters of a content, not only on its presence.

    Any search, comparison with a content, or method that reads characters counts, whatever it is applied to.
    """
    # This errs on the side of True: a false True only costs one more rendering per answer, a false False would let a
    # scaffold learned from placeholders stand for texts that the template treats differently.
    tree = environment.parse(source)
    for compare in tree.find_all(nodes.Compare):
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        kinds = {operand.op for operand in compare.ops}
        searched = kinds & {"in", "notin"} and not (_is_name_of_key(sides[0]) or isinstance(sides[-1], _LISTED))
        if searched or (_names_content(compare) and kinds & {"eq", "ne"}):
            return True
    called = [call.node.attr for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Getattr)]
    filters = {found.name for found in tree.find_all(nodes.Filter)}
    slices = any(_names_content(found) for found in tree.find_all(nodes.Getitem) if not _is_key(found))
    return bool(LOOKING_METHODS & set(called)) or bool(LOOKING_FILTERS & filters - {"length", "list"}) or slices


def _is_key(item: nodes.Getitem) -> bool:
    return isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str)


def _is_name_of_key(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and node.value in KEYS


def _names_content(node: nodes.Node) -> bool:
    named = any(found.attr == "content" for found in node.find_all(nodes.Getattr))
    keyed = any(_is_key(found) and found.arg.value == "content" for found in node.find_all(nodes.Getitem))  # type: ignore[attr-defined]
    return named or keyed or any(found.name == "content" for found in node.find_all(nodes.Name))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold the underscore-prefixed attribute {name!r}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def time_limit(seconds: float, sentence: Callable[[], str]) -> Iterator[None]:
    """Raise DataError with ``sentence()`` if the block takes longer than ``seconds``.

    Signals reach the main thread only: in other threads, and without an interval timer, there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def end(*_: Any) -> None:
        raise DataError(sentence())

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
