"""Strict YAML: YAML 1.2 scalars, no duplicate keys, and bounded size, including expanded aliases.

PyYAML follows YAML 1.1, where ``2e-4`` is a text, ``no`` is false, ``12:30`` is 750, the last of two equal keys
wins silently and nine lines of aliases expand to gigabytes.
"""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from snaketune.core.errors import ConfigError

LARGEST_BYTES = 1_000_000
MOST_VALUES = 100_000
"""What a file may hold once its aliases (``*name``) and merge keys (``<<``) are written out."""
MOST_DIGITS = 300
MERGE = "tag:yaml.org,2002:merge"

_SCALARS = [
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$",
        list("-+.0123456789"),
    ),
    (MERGE, r"^<<$", ["<"]),
]


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars that refuses tags, duplicate keys, and aliases that expand to too much."""

    def compose_document(self) -> yaml.Node | None:
        node = super().compose_document()
        _count(node, self.name)
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            return super().compose_node(parent, index)
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if tag := getattr(event, "tag", None):
            line = event.start_mark.line + 1
            raise ConfigError(f"{self.name}, line {line}: YAML tags ({tag}) are not allowed: write the value alone.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            key = MERGE if key_node.tag == MERGE else self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConfigError(f"{self.name}, line {line}: the key {key!r} is not a string: put it in quotes.")
            if (first := seen.get(key)) is not None:
                key = "<<" if key == MERGE else key
                raise ConfigError(
                    f"{self.name}, line {line}: the key {key!r} is already set in line {first}: keep one of them."
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


def _count(node: yaml.Node | None, name: str) -> None:
    """Refuse a document that expands to too many values, or that holds itself.

    An anchor's size is counted once and added for each of its aliases: nine lines can expand to gigabytes.
    """
    sizes: dict[int, int | None] = {}

    def size_of(one: yaml.Node) -> int:
        if id(one) in sizes:
            known = sizes[id(one)]
            if known is None:
                line = one.start_mark.line + 1
                raise ConfigError(f"{name}, line {line}: this anchor holds an alias of itself: write it out.")
            return known
        sizes[id(one)] = None
        pairs = one.value if isinstance(one, yaml.MappingNode | yaml.SequenceNode) else ()
        inner = [part for pair in pairs for part in (pair if isinstance(pair, tuple) else (pair,))]
        sizes[id(one)] = total = 1 + sum(map(size_of, inner))
        if total > MOST_VALUES:
            line = one.start_mark.line + 1
            raise ConfigError(
                f"{name}, line {line}: with its aliases (*name) written out this holds more than {MOST_VALUES:,}"
                " values: write out the needed parts."
            )
        return total

    if node is not None:
        size_of(node)


def _apart(value: Any) -> Any:
    """Return a value in which nothing is shared: what an alias repeats are values of their own."""
    if isinstance(value, dict):
        return {key: _apart(one) for key, one in value.items()}
    return [_apart(one) for one in value] if isinstance(value, list) else value


def _integer(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    """Return a whole number in decimal digits; PyYAML reads ``010`` as 8, and cannot read ``08``."""
    place = f"{loader.name}, line {node.start_mark.line + 1}"
    if len(node.value) > MOST_DIGITS:
        raise ConfigError(f"{place}: {len(node.value):,} digits are too many for a number: write fewer.")
    if re.match(r"[-+]?0[0-9]", node.value):
        raise ConfigError(
            f"{place}: {node.value} begins with a zero, which some programs read as octal: write"
            f" {int(node.value)}, or '{node.value}' in quotes for a text."
        )
    return int(node.value)


def _decimal(loader: _StrictLoader, node: yaml.ScalarNode) -> float:
    value = float(node.value)
    if math.isinf(value):
        line = node.start_mark.line + 1
        raise ConfigError(f"{loader.name}, line {line}: {node.value[:40]} is too large for a number: write it smaller.")
    return value


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _integer)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _decimal)
_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _SCALARS:
    _StrictLoader.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def parse_yaml(text: str, name: str) -> Any:
    """Parse one YAML document; ``name`` is the place that errors mention.

    Raises:
        ConfigError: for anything that is not plain, unambiguous YAML, with the line.
    """
    try:
        loader = _StrictLoader(text)
        loader.name = name
        return _apart(loader.get_single_data())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}, line {mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(
            f"{place}: this is not valid YAML ({problem}): check indentation, quotes and colons."
        ) from None
    except RecursionError:
        raise ConfigError(f"{name}: the YAML is nested too deeply: flatten it.") from None


def load_yaml(path: str | Path, name: str | None = None) -> dict[str, Any]:
    """Read the mapping in the YAML file at ``path`` (an empty file is an empty mapping).

    Raises:
        ConfigError: if the file is missing, too large, not UTF-8, not YAML or not a mapping.
    """
    path, name = Path(path), name or str(path)
    if not path.is_file():
        found = "this is not a file" if path.exists() else "there is no such file"
        raise ConfigError(f"{name}: {found}: check the path or restore config/config.yaml.")
    if path.stat().st_size > LARGEST_BYTES:
        raise ConfigError(
            f"{name}: {path.stat().st_size} bytes are too many for a configuration: give a file under 1 MB."
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: byte {error.start} is not UTF-8: save the file as UTF-8.") from None
    value = parse_yaml(text, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(
            f"{name}: the file contains a {type(value).__name__} instead of keys: start with `data:` or `preset:`."
        )
    return value
