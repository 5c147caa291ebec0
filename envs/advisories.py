"""Known vulnerabilities of pinned versions, from a database of advisories in the format of OSV on this machine.

https://ossf.github.io/osv-schema/ says what an advisory is, and how a version is evaluated against its ranges.
"""

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

# The largest advisory of PyPI has half a megabyte: thousands of versions, one by one.
MOST_BYTES = 16 << 20
SUFFIXES = (".json", ".yaml", ".yml")
# Ranges of what a pin names; those of git name commits.
VERSIONED = ("ECOSYSTEM", "SEMVER")
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class UnreadableError(ValueError):
    """A database, or a file of one, cannot be used."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A vulnerability that a pinned version has, or may have.

    Attributes:
        package: the pin.
        names: the identifiers of the advisory and its aliases, sorted.
        summary: the first line of what it is.
        fixed: versions that do not have it, as the database says.
        doubt: why it could not be judged; empty for one that the version has.
    """

    package: str
    names: tuple[str, ...]
    summary: str
    fixed: tuple[str, ...]
    doubt: str = ""


@dataclass(slots=True)
class Account:
    """What a database says of some pins.

    Attributes:
        findings: those of the pins, sorted, one for all advisories that are aliases of each other.
        advisories: how many were read, withdrawn ones among them.
        newest: when the newest was changed, as the database writes it.
        unreadable: files that could not be read, with the reason.
    """

    findings: list[Finding] = field(default_factory=list)
    advisories: int = 0
    newest: str = ""
    unreadable: list[str] = field(default_factory=list)


def look_up(database: Path, pins: Mapping[str, Sequence[str]]) -> Account:
    """Return what the advisories of a database say of the pinned versions by package; memory is bounded.

    Raises:
        UnreadableError: if it is not a database.
        OSError: if it cannot be read.
    """
    account = Account()
    for name, content in _files(database):
        try:
            advisory = _parse(name, content)
            if advisory is not None:
                account.advisories += 1
                account.newest = max(account.newest, str(advisory.get("modified", "")))
                account.findings += judge(advisory, pins)
        except (UnreadableError, ValueError, RecursionError, yaml.YAMLError) as error:
            account.unreadable.append(f"{name} ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
    account.findings = sorted(_merged(account.findings), key=lambda one: (one.package, one.names))
    return account


def _files(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Yield name and content of the files of a database, None for content that is too long."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix in SUFFIXES and file.is_file():
                yield str(file.relative_to(path)), file.read_bytes() if file.stat().st_size <= MOST_BYTES else None
    elif zipfile.is_zipfile(path):
        try:
            yield from _members(path)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise UnreadableError(str(error) or type(error).__name__) from None
    else:
        raise UnreadableError("it is neither a folder nor a zip file")


def _members(path: Path) -> Iterator[tuple[str, bytes | None]]:
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.infolist(), key=lambda one: one.filename):
            if Path(member.filename).suffix in SUFFIXES and not member.is_dir():
                with archive.open(member) as file:  # its header may say less than it holds
                    content = file.read(MOST_BYTES + 1)
                yield member.filename, content if len(content) <= MOST_BYTES else None


def _parse(name: str, content: bytes | None) -> dict[str, Any] | None:
    """Return an advisory; None for a file that is none."""
    if content is None:
        raise UnreadableError(f"more than {MOST_BYTES >> 20} MiB")
    found = json.loads(content) if name.endswith(".json") else yaml.load(content, _YAML)
    return found if isinstance(found, dict) and "id" in found else None


def judge(advisory: Mapping[str, Any], pins: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Return what an advisory says of the pins that it names.

    Raises:
        UnreadableError: if it has not the form of one.
    """
    if advisory.get("withdrawn"):
        return []
    found = []
    for entry in _dicts(advisory.get("affected"), "affected"):
        package = entry.get("package") or {}
        if not isinstance(package, dict) or not isinstance(package.get("name", ""), str):
            raise UnreadableError(f"a package is {str(package)[:80]!r}")
        name = canonicalize_name(package.get("name", ""))
        for version in pins.get(name, ()) if package.get("ecosystem") == "PyPI" else ():
            is_in, doubt = is_affected(version, entry)
            if is_in or doubt:
                names = tuple(sorted({str(advisory["id"]), *_texts(advisory.get("aliases"), "aliases")}))
                summary = str(advisory.get("summary") or advisory.get("details") or "").strip().split("\n")[0]
                found.append(Finding(f"{name}=={version}", names, summary, _fixes(entry), doubt))
    return found


def is_affected(version: str, entry: Mapping[str, Any]) -> tuple[bool, str]:
    """Tell whether a version is listed, or in a range, of an advisory's entry; and why that is not known, if so."""
    pin, listed = Version(version), _texts(entry.get("versions"), "versions")
    if version in listed or any(_version(other) == pin for other in listed):
        return True, ""
    ranges = [one for one in _dicts(entry.get("ranges"), "ranges") if one.get("type") in VERSIONED]
    verdicts = [_is_in(pin, _dicts(one.get("events"), "events")) for one in ranges]
    if any(verdicts):
        return True, ""
    if listed or (verdicts and None not in verdicts):
        return False, ""
    return False, "a range names no version" if ranges else "it lists no versions"


def _is_in(version: Version, events: Sequence[Mapping[str, Any]]) -> bool | None:
    """Tell whether a version is in a range; None where an event names no version."""
    # Of one event several may stand in one object. At the same version what begins comes before what ends.
    places = [(_version(place), kind) for event in events for kind, place in event.items() if kind in _ORDER]
    if not places or any(place is None for place, _ in places):
        return None
    inside = False
    for place, kind in sorted(places, key=lambda one: (one[0] or _FIRST, _ORDER[one[1]])):
        if kind == "introduced" and version >= place:
            inside = True
        elif (kind == "fixed" and version >= place) or (kind == "last_affected" and version > place):
            inside = False
    return inside and not any(kind == "limit" and version >= place for place, kind in places)


_ORDER = {"introduced": 0, "fixed": 1, "last_affected": 2, "limit": 3}
_FIRST = Version("0.dev0")  # before 0, which OSV takes for before everything


def _version(text: object) -> Version | None:
    if text in ("0", "*"):  # from the first version on; without a limit
        return _FIRST if text == "0" else Version("99999999")
    try:
        return Version(str(text))
    except InvalidVersion:
        return None


def _fixes(entry: Mapping[str, Any]) -> tuple[str, ...]:
    ranges = [one for one in _dicts(entry.get("ranges"), "ranges") if one.get("type") in VERSIONED]
    events = [event for one in ranges for event in _dicts(one.get("events"), "events")]
    return tuple(dict.fromkeys(str(event["fixed"]) for event in events if "fixed" in event))


def _merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return one finding for all advisories on the same pin that name each other."""
    merged: list[Finding] = []
    for one in findings:
        same = [other for other in merged if other.package == one.package and {*other.names} & {*one.names}]
        merged = [other for other in merged if other not in same]
        group = [*same, one]
        # What one of them could judge is known.
        judged = [each for each in group if not each.doubt]
        fixed = tuple(dict.fromkeys(version for each in group for version in each.fixed))
        names = tuple(sorted({name for each in group for name in each.names}))
        summary = next((each.summary for each in group if each.summary), "")
        merged.append(Finding(one.package, names, summary, fixed, "" if judged else one.doubt))
    return merged


def _dicts(value: object, name: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise UnreadableError(f"{name} is {str(value)[:80]!r}")
    return value


def _texts(value: object, name: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise UnreadableError(f"{name} is {str(value)[:80]!r}")
    return [str(one) for one in value]
