"""How many records there were, and where they went."""

from typing import Any

from snaketune.card.evaluation import basename
from snaketune.card.facts import CardFacts
from snaketune.card.text import code, number, table

MOST_SOURCES = 20


def data_section(facts: CardFacts) -> list[str]:
    """Return the sources and the funnel from their lines to the documents that were trained on."""
    rows = [(label, number(value)) for label, value in funnel(facts) if value is not None]
    return ["## Data", "", *_sources(facts), "", *table(("step", "records"), rows)]


def _sources(facts: CardFacts) -> list[str]:
    sources = facts.run["sources"]
    told = [f"- {code(basename(source['path']))}, content digest {code(source['digest'])}" for source in sources]
    more = len(told) - MOST_SOURCES
    told = told[:MOST_SOURCES] + ([f"- and {number(more)} more"] if more > 0 else [])
    ids = [f"- of the hub: [{name}](https://huggingface.co/datasets/{name})" for name in facts.datasets]
    return [*told, *ids]


def funnel(facts: CardFacts) -> list[tuple[str, int | None]]:
    """Return what is there and what left on the way, in order; None where it is not known."""
    split, dropped = facts.split, facts.part("tokens", "train").get("dropped") or {}
    lines = [source.get("lines") for source in facts.reading.get("sources", [])]
    return [
        ("lines in the sources", sum(lines) if lines and None not in lines else None),
        ("invalid, set aside", facts.reading.get("quarantined")),
        ("duplicates removed", facts.dedupe.get("removed")),
        ("left out: too similar to a held-out record", split.get("dropped_similar")),
        ("left out: contains text of a named evaluation", split.get("dropped_contaminated")),
        ("training split", split.get("train")),
        ("held-out split", split.get("eval")),
        ("training records with no token to train on or refused by the template", _sum(dropped)),
        ("training records dropped, too long", facts.rightsize.get("dropped")),
        ("training records cut, too long", facts.rightsize.get("truncated")),
        ("documents trained on", facts.part("pack", "train").get("documents")),
        ("documents held out and measured", facts.part("pack", "eval").get("documents")),
    ]


def _sum(counts: Any) -> int:
    return sum(value for value in counts.values() if isinstance(value, int))
