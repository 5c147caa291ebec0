"""Licence and languages from a base model's card, which the card of a model derived from it has to repeat."""

import re
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
LICENCE_PATTERNS = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")
MOST_CHARACTERS = 1 << 16
FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}", re.ASCII)
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code", re.ASCII)
MOST_LANGUAGES = 200


def describe_card(folder: Path) -> dict[str, Any]:
    """Return ``license``, ``license_name``, ``license_link`` and ``language`` as far as the folder gives them.

    A card that cannot be read is ignored; a licence file without a card counts as licence `other`.
    """
    # The card is foreign text that ends up in another card: only values of the expected form are taken over.
    stated = _front_matter(folder / CARD)
    known: dict[str, Any] = {}
    if isinstance(stated.get("license"), str) and LICENCE.fullmatch(stated["license"]):
        known["license"] = stated["license"]
        known |= {key: stated[key] for key in ("license_name", "license_link") if _is_line(stated.get(key))}
    elif files := licence_files(folder):
        known |= {"license": "other", "license_link": files[0].name}
    named = stated.get("language")
    languages = [word for word in (named if isinstance(named, list) else [named]) if _is_language(word)]
    return known | ({"language": languages[:MOST_LANGUAGES]} if languages else {})


def licence_files(folder: Path) -> list[Path]:
    """Return the licence files in ``folder``, sorted."""
    return sorted({file for pattern in LICENCE_PATTERNS for file in folder.glob(pattern) if file.is_file()})


def _front_matter(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", errors="replace") as file:
        found = FRONT_MATTER.match(file.read(MOST_CHARACTERS))
    try:
        stated = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return stated if isinstance(stated, dict) else {}


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def _is_language(value: Any) -> bool:
    return isinstance(value, str) and LANGUAGE.fullmatch(value) is not None
