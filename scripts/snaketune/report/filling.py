"""Renders a template into one self-contained page with style, script and charts, under a strict security policy."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2

from snaketune.report.charts.svg import drawn
from snaketune.report.text import visible

HERE = Path(__file__).parent


def fill(template: str, **values: Any) -> str:
    """Return a template of this package as a page that holds its style and script and loads nothing."""
    style, boot = style_sheet(), boot_script()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"drawn": drawn, "visible": visible}
    policy = security_policy([boot], [style])
    page = environment.get_template(template)
    return page.render(style=style, boot=boot, policy=policy, **values)


def boot_script() -> str:
    """Return the script that shows values of charts and switches between them."""
    return (HERE / "boot.js").read_text(encoding="utf-8")


def style_sheet() -> str:
    """Return the style of the page."""
    return (HERE / "style.css").read_text(encoding="utf-8")


def content_digest(text: str) -> str:
    """Return the source expression by which a Content-Security-Policy allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def security_policy(scripts: list[str], styles: list[str]) -> str:
    """Return a policy under which nothing runs or loads but the given inline scripts and styles."""
    allowed = {"default-src": ["'none'"], "base-uri": ["'none'"], "form-action": ["'none'"]}
    allowed["script-src"] = [content_digest(script) for script in scripts]
    allowed["style-src"] = [content_digest(style) for style in styles]
    return "; ".join(f"{directive} {' '.join(values)}" for directive, values in allowed.items())
