"""A claim of the source documents next to what the product's own functions say about it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Claim:
    """A row: where it stands, what is claimed, what is right (computed), and why."""

    place: str
    topic: str
    claimed: str
    right: str
    verdict: Literal["right", "wrong", "unsupported"]
    why: str


@dataclass(frozen=True)
class Table:
    """The claims of one document."""

    title: str
    claims: tuple[Claim, ...]


def page(tables: list[Table]) -> str:
    """Return the claims as Markdown."""
    lines = [
        "# The source documents, checked",
        "",
        "This project started from five comparisons of training presets. Their tables mix right arithmetic with wrong",
        "conclusions, so each is computed again here by the functions that `plan` uses. The column *right* is not",
        "typed: `tests/golden/document_tables` makes this page and fails when it differs. *Unsupported* is what no",
        "arithmetic can settle; only a measurement can (`snakemake ablate`).",
        "",
    ]
    for table in tables:
        lines += [f"## {table.title}", "", "| | topic | claimed | right | verdict | why |", "|---|---|---|---|---|---|"]
        for one in table.claims:
            cells = (one.place, one.topic, one.claimed, one.right, one.verdict, one.why)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)
