"""Reproducing the run: its configuration, its inputs, and the command."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.core.canonical import canonical_text
from snaketune.facts.data_facts import SourceAccount
from snaketune.facts.run_facts import ConfigEntry, RawSource
from snaketune.report import units
from snaketune.report.report_facts import RunPageFacts
from snaketune.report.text import excerpt

SETTING_CHARACTERS = 600
COMMAND = "snakemake --cores 8 train"


@dataclass(frozen=True, slots=True)
class Setting:
    """One resolved value of the configuration and where it comes from."""

    key: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class RawFile:
    """One raw file: its path as configured, its size, its digest and what was read from it."""

    path: str
    size: str
    digest: str
    format: str
    lines: str
    quarantined: str


def settings_of_run(facts: RunPageFacts, changed: bool) -> tuple[Setting, ...]:
    """Return the settings that differ from the default, or those that do not, sorted by key."""
    config = facts.run["config"]
    chosen = [(key, entry) for key, entry in sorted(config.items()) if is_default(entry) != changed]
    return tuple(Setting(key, shown_value(entry["value"]), entry["origin"] or "") for key, entry in chosen)


def is_default(entry: ConfigEntry) -> bool:
    """Return whether a setting has its built-in value."""
    return entry["origin"] == "default"


def shown_value(value: Any) -> str:
    """Return a value as one writes it in the configuration file, shortened when it is long."""
    text = value if isinstance(value, str) and value else canonical_text(value)
    short = excerpt(text, SETTING_CHARACTERS)
    return f"{short.text} ({short.note})" if short.note else short.text


def config_file(facts: RunPageFacts) -> str:
    """Return a configuration file, as YAML, that gives this run: every setting that differs from the default.

    A run that starts from other runs comes with these, each with its own settings.
    """
    name, own = (
        canonical_text(str(facts.run["run"] or "default")),
        _nested(facts.run["config"]),
    )
    earlier = facts.run["earlier"]
    if not earlier:
        return "\n".join(["runs:", f"  {name}: {{}}", *_yaml(own, 0)]) + "\n"
    runs = {canonical_text(str(key)): _nested(config) for key, config in sorted(earlier.items())}
    return "\n".join(_yaml({"runs": runs | {name: own}}, 0)) + "\n"


def _nested(config: Mapping[str, ConfigEntry]) -> dict[str, Any]:
    """Return the settings that differ from the default, in sections."""
    nested: dict[str, Any] = {}
    for key, entry in sorted(config.items()):
        if not is_default(entry):
            *sections, leaf = key.split(".")
            target = nested
            for section in sections:
                target = target.setdefault(section, {})
            target[leaf] = Leaf(entry["value"])
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


def sources(facts: RunPageFacts) -> tuple[RawFile, ...]:
    """Return the raw sources with what was read from each."""
    read = {source["path"]: source for source in facts.reading["sources"]}
    return tuple(_source(entry, read.get(entry["path"])) for entry in facts.run["sources"])


def _source(entry: RawSource, read: SourceAccount | None) -> RawFile:
    return RawFile(
        _called(entry),
        units.file_size(entry["bytes"]),
        entry["digest"] or "",
        (read and read["format"]) or "",
        units.count(read["lines"] if read else None),
        units.count(read["quarantined"] if read else None),
    )


def _called(entry: RawSource) -> str:
    """Return the path of a source, with the name, the weight and the limit that the configuration gives it."""
    options = entry["options"]
    path, name = excerpt(entry["path"], 300).text, excerpt(options["name"] or "", 100).text
    weight = [f"weight {options['weight']:g}"] if options["weight"] not in (None, 1) else []
    limit = [f"at most {units.count(options['max_records'])} records"] if options["max_records"] else []
    asked = f" ({', '.join(weight + limit)})" if weight or limit else ""
    return f"{f'{name}: ' if name else ''}{path}{asked}"


def digests(facts: RunPageFacts) -> tuple[tuple[str, str], ...]:
    """Return the digests of the inputs and results of the run, without those of the code."""
    found: Mapping[str, Any] = facts.run["digests"]
    order = ("data", "tokenizer", "chat_template", "base_model", "adapter", "merged")
    named = [key for key in order if key in found]
    others = sorted(key for key in found if key not in order and key != "code")
    rows = [(key.replace("_", " "), _text(found[key])) for key in named + others]
    training = facts.run["training_fingerprint"]
    return (*rows, ("training fingerprint", str(training))) if training else tuple(rows)


def code_digests(facts: RunPageFacts) -> tuple[tuple[str, str], ...]:
    """Return the digest of the code of each stage."""
    return _pairs(facts.run["digests"].get("code", {}))


def package_versions(facts: RunPageFacts) -> tuple[tuple[str, str], ...]:
    """Return the package versions."""
    return _pairs(facts.run["versions"])


def seeds(facts: RunPageFacts) -> tuple[tuple[str, str], ...]:
    """Return the seeds."""
    return _pairs(facts.run["seeds"])


def _pairs(found: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(key), _text(value)) for key, value in sorted(found.items()))


def _text(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else canonical_text(value)
