"""How to make the run again: its configuration, what it was made from, and the command."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.core.canonical import canonical_text
from snaketune.report import units
from snaketune.report.facts import Facts, get_path
from snaketune.report.text import excerpt

VALUE_CHARACTERS = 600
COMMAND = "snakemake --cores 8 train"


@dataclass(frozen=True, slots=True)
class Setting:
    """One resolved value of the configuration and where it comes from."""

    key: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Source:
    """One raw file: its path as configured, its size, its digest and what was read from it."""

    path: str
    size: str
    digest: str
    format: str
    lines: str
    quarantined: str


def settings(facts: Facts, changed: bool) -> tuple[Setting, ...]:
    """Return the settings that differ from the default, or those that do not, sorted by key."""
    config = get_path(facts.run, "config") or {}
    chosen = [(key, entry) for key, entry in sorted(config.items()) if is_default(entry) != changed]
    return tuple(Setting(key, shown_value(entry.get("value")), str(entry.get("origin", ""))) for key, entry in chosen)


def is_default(entry: Mapping[str, Any]) -> bool:
    """Return whether a setting has its built-in value."""
    return entry.get("origin") == "default"


def shown_value(value: Any) -> str:
    """Return a value as one writes it in the configuration file, shortened when it is long."""
    text = value if isinstance(value, str) and value else canonical_text(value)
    short = excerpt(text, VALUE_CHARACTERS)
    return f"{short.text} ({short.note})" if short.note else short.text


def config_file(facts: Facts) -> str:
    """Return a configuration file, as YAML, that gives this run: every setting that differs from the default.

    A run that starts from other runs comes with these, each with its own settings.
    """
    name, own = (
        canonical_text(str(get_path(facts.run, "run") or "default")),
        _nested(get_path(facts.run, "config") or {}),
    )
    earlier = get_path(facts.run, "earlier") or {}
    if not earlier:
        return "\n".join(["runs:", f"  {name}: {{}}", *_yaml(own, 0)]) + "\n"
    runs = {canonical_text(str(key)): _nested(config) for key, config in sorted(earlier.items())}
    return "\n".join(_yaml({"runs": runs | {name: own}}, 0)) + "\n"


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the default, in sections."""
    nested: dict[str, Any] = {}
    for key, entry in sorted(config.items()):
        if not is_default(entry):
            *sections, leaf = key.split(".")
            target = nested
            for section in sections:
                target = target.setdefault(section, {})
            target[leaf] = Leaf(entry.get("value"))
    return nested


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value that stays on one line, also when it is a mapping."""

    value: Any


def _yaml(nested: Mapping[str, Any], depth: int) -> list[str]:
    """Return nested sections as lines of YAML; JSON values are YAML values."""
    lines = []
    for key, value in nested.items():
        if isinstance(value, Leaf):
            lines.append(f"{'  ' * depth}{key}: {canonical_text(value.value)}")
        else:
            lines += [f"{'  ' * depth}{key}:", *_yaml(value, depth + 1)]
    return lines


def sources(facts: Facts) -> tuple[Source, ...]:
    """Return the raw sources with what was read from each."""
    read = {str(source.get("path")): source for source in get_path(facts.reading, "sources") or []}
    return tuple(_source(entry, read.get(str(entry.get("path")), {})) for entry in get_path(facts.run, "sources") or [])


def _source(entry: Mapping[str, Any], read: Mapping[str, Any]) -> Source:
    return Source(
        _called(entry),
        units.file_size(entry.get("bytes")),
        str(entry.get("digest") or ""),
        str(read.get("format") or ""),
        units.count(read.get("lines")),
        units.count(read.get("quarantined")),
    )


def _called(entry: Mapping[str, Any]) -> str:
    """Return the path of a source, with the name, the weight and the limit that the configuration gives it."""
    options = entry.get("options") or {}
    path, name = excerpt(entry.get("path"), 300).text, excerpt(options.get("name") or "", 100).text
    weight = [f"weight {options['weight']:g}"] if options.get("weight", 1) != 1 else []
    limit = [f"at most {units.count(options['max_records'])} records"] if options.get("max_records") else []
    asked = f" ({', '.join(weight + limit)})" if weight or limit else ""
    return f"{f'{name}: ' if name else ''}{path}{asked}"


def digests(facts: Facts) -> tuple[tuple[str, str], ...]:
    """Return the digests of what the run was made from and of what it made, without those of the code."""
    found = get_path(facts.run, "digests") or {}
    order = ("data", "tokenizer", "chat_template", "base_model", "adapter", "merged")
    named = [key for key in order if key in found]
    others = sorted(key for key in found if key not in order and key != "code")
    rows = [(key.replace("_", " "), _text(found[key])) for key in named + others]
    training = get_path(facts.run, "training_fingerprint")
    return (*rows, ("training fingerprint", str(training))) if training else tuple(rows)


def code_digests(facts: Facts) -> tuple[tuple[str, str], ...]:
    """Return the digest of the code of each stage."""
    return _pairs(get_path(facts.run, "digests.code"))


def versions(facts: Facts) -> tuple[tuple[str, str], ...]:
    """Return the package versions."""
    return _pairs(get_path(facts.run, "versions"))


def seeds(facts: Facts) -> tuple[tuple[str, str], ...]:
    """Return the seeds."""
    return _pairs(get_path(facts.run, "seeds"))


def _pairs(found: Any) -> tuple[tuple[str, str], ...]:
    return tuple((str(key), _text(value)) for key, value in sorted((found or {}).items()))


def _text(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else canonical_text(value)
