"""The JavaScript of the page, inlined so that it opens without a network, and the digests that allow it to run."""

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

import orjson

HERE = Path(__file__).parent
SNIPPET = "window.vegaEmbed = vegaEmbed;"


@functools.lru_cache(maxsize=1)
def charts_library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, in the Vega-Lite version that altair writes for."""
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    return vl_convert.javascript_bundle(SNIPPET, vl_version=version)


def boot_script() -> str:
    """Return the few lines that draw the charts of the page."""
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


def embedded_json(value: Any) -> str:
    """Return ``value`` as JSON that can stand inside a script element whatever strings it holds."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
