"""Licences and known vulnerabilities of the pinned packages, without a network: ``make audit``.

Licences are what the installed packages say of themselves. Vulnerabilities are looked up in a database of advisories in
the format of OSV that somebody has put on this machine, a zip file or a folder:
https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip, or a clone of https://github.com/pypa/advisory-database.
Without one they are not checked, and the last line says so.

Exit status: 0 when nothing was found; 1 when a pin has a known vulnerability, or one that could not be judged, a file
of the database could not be read, or a licence asks for a decision; 2 when the database cannot be used.
"""

import argparse
import re
import sys
from collections import defaultdict
from importlib import metadata
from pathlib import Path

from advisories import UnreadableError, look_up
from packaging.utils import canonicalize_name

# Lines on files that cannot be read.
SHOWN = 10

PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;]+)")
# Licences under which a package may be installed beside this project and used by it. MPL asks for changes of its own
# files only; docutils may be taken under any of several, its GPL files are an editor's.
PERMITTED = re.compile(
    r"MIT|Apache|BSD|ISC|PSF|Python Software Foundation|CNRI|Zlib|CC0|BSL|Boost|Unlicense|public domain|MPL|Mozilla",
    re.IGNORECASE,
)
# What asks for a decision even beside one of those, unless there is a choice.
COPYLEFT = re.compile(r"\b[AL]?GPL|General Public|SSPL|Commons Clause|proprietary|EULA|CC-BY-N", re.IGNORECASE)
CHOICE = re.compile(r"\bOR\b|;|, ")
# Decisions that were made, by the names of packages.
ACCEPTED = {
    re.compile(r"(nvidia|cuda)-.*"): "NVIDIA's own licence, for libraries that torch's builds for its GPUs load"
}
# The beginnings of licences that packages carry as a text alone.
TEXTS = {
    "MIT": r"\bMIT License|Permission is hereby granted, free of charge",
    "Apache-2.0": r"Apache License\s+Version 2\.0",
    "BSD": r"Redistribution and use in source and binary forms",
}


def read_pins(path: Path) -> dict[str, list[str]]:
    """Return the pinned versions of each package; platforms may have different ones."""
    pins: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        if match := PIN.match(line):
            pins[canonicalize_name(match[1])].append(match[2])
    return dict(pins)


def licence_of(package: metadata.Distribution) -> str:
    """Return what a package says of its licence: an expression, classifiers, a line, or a text; empty for nothing."""
    facts = package.metadata
    classifiers = [line.split(" :: ")[-1] for line in facts.get_all("Classifier") or () if line.startswith("License")]
    said = facts["License-Expression"] or "; ".join(classifiers) or facts["License"] or ""
    if len(lines := said.strip().splitlines()) == 1:
        return lines[0]
    texts = [said, *(_text(file) for file in package.files or () if re.search(r"LICEN[CS]E|COPYING", file.name, re.I))]
    found = (name for text in texts for name, pattern in TEXTS.items() if re.search(pattern, text[:3000], re.I))
    return next(found, "")


def _text(file: metadata.PackagePath) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def is_permitted(licence: str) -> bool:
    """Tell whether a licence needs no decision: it is a known one, and not bound to another kind."""
    bound = COPYLEFT.search(licence) and not CHOICE.search(licence)
    return bool(PERMITTED.search(licence)) and not bound


def audit_licences(pins: dict[str, list[str]]) -> bool:
    """Print the licences of the installed pins and what needs a decision; return whether nothing does."""
    kinds, bad, absent = defaultdict(list), [], []
    for name in sorted(pins):
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            absent.append(name)
            continue
        licence = licence_of(package)
        kinds[licence or "nothing said"].append(name)
        if not is_permitted(licence) and not any(accepted.fullmatch(name) for accepted in ACCEPTED):
            bad.append(f"{name}: {licence or 'it says nothing of its licence'}")
    print(f"Licences of {len(pins) - len(absent)} of {len(pins)} pinned packages, as they say themselves:")
    for licence, names in sorted(kinds.items(), key=lambda item: -len(item[1])):
        print(f"  {len(names):4} {licence}" + (f": {', '.join(names)}" if len(names) < 4 else ""))
    if absent:
        print(f"  {len(absent):4} not installed here, not checked: {', '.join(absent)}")
    for line in bad:
        print(f"Licence to be decided on: {line}")
    return not bad


def audit_vulnerabilities(pins: dict[str, list[str]], database: Path | None) -> bool:
    """Print the known vulnerabilities of the pins; return whether there is none, as far as that could be checked."""
    if database is None:
        print(
            "Vulnerabilities: NOT CHECKED, because there is no database of advisories here. Download"
            " https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip and run: make audit ADVISORIES=all.zip"
        )
        return True
    account = look_up(database, pins)
    if not account.advisories and not account.unreadable:
        raise UnreadableError("it holds no advisories")
    for one in account.findings:
        cure = f"fixed in {', '.join(one.fixed)}" if one.fixed else "no fixed version is known"
        kind = f"Not judged, because {one.doubt}" if one.doubt else "Vulnerable"
        print(f"{kind}: {one.package}: {' '.join(one.names)}: {one.summary} ({cure})")
    for line in account.unreadable[:SHOWN]:
        print(f"Not read: {line}")
    known = f"{account.advisories:,} advisories, the newest of {account.newest[:10] or 'an unknown date'}"
    left_out = f"; {len(account.unreadable):,} files of the database could not be read" if account.unreadable else ""
    print(f"Vulnerabilities: {len(account.findings)} in {sum(map(len, pins.values()))} pins, by {known}{left_out}.")
    return not account.findings and not account.unreadable


def main() -> int:
    """Print the account and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pins", type=Path, default=Path(__file__).parents[1] / "constraints.txt")
    parser.add_argument("--advisories", type=Path, help="a zip file or folder of advisories in the format of OSV")
    arguments = parser.parse_args()
    pins = read_pins(arguments.pins)
    try:
        results = [audit_licences(pins), audit_vulnerabilities(pins, arguments.advisories)]
    except (OSError, UnreadableError) as error:
        print(f"Vulnerabilities: NOT CHECKED: {arguments.advisories} cannot be used ({error}).", file=sys.stderr)
        return 2
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
