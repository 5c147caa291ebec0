"""The findings about a card as one HTML page that can be sent to others; no package beyond Python's own."""

import html
import json
from typing import Any

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem .6rem;border-bottom:1px solid #ccc;"
    "vertical-align:top}.failed{color:#b00020;font-weight:600}.passed{color:#0b6b2e}pre{white-space:pre-wrap}"
)


def render(found: dict[str, Any]) -> str:
    """Return the page of what :func:`snaketune.train.fitness.examining.examine` found."""
    rows = "".join(_row(each) for each in found["findings"])
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>GPU check</title><style>{STYLE}</style><h1>GPU check</h1><p>{html.escape(verdict(found))}</p>"
        "<table><thead><tr><th>check<th>verdict<th>what was seen<th>seconds</thead>"
        f"<tbody>{rows}</tbody></table><h2>All figures</h2>"
        f"<pre>{html.escape(json.dumps(found, indent=1, sort_keys=True))}</pre></html>\n"
    )


def verdict(found: dict[str, Any]) -> str:
    """Return one sentence on whether the card is fit."""
    failed = [each["name"] for each in found["findings"] if each["verdict"] == "failed"]
    left = sum(each["verdict"] == "not here" for each in found["findings"])
    if failed:
        return f"Not fit: {', '.join(failed)} failed."
    if found["device"] == "cpu":
        return f"No GPU: the checks ran in a reduced form on the CPU, {left} of them need a GPU or a package."
    return f"Fit: every check that applies passed; {left} need another card or a package."


def _row(finding: dict[str, Any]) -> str:
    cells = (finding["name"], finding["verdict"], finding["said"], f"{finding['seconds']:.1f}")
    name, verdict, said, seconds = map(html.escape, cells)
    return f"<tr><td>{name}<td class='{verdict.replace(' ', '-')}'>{verdict}<td>{said}<td>{seconds}</tr>"
