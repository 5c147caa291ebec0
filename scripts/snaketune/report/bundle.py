"""The script and the style of a page, inlined so that it opens without a network, and the digests that allow them."""

import base64
import hashlib
from pathlib import Path

HERE = Path(__file__).parent


def boot_script() -> str:
    """Return the few lines that tell the values of charts and switch between them."""
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
