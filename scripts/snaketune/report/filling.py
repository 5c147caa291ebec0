"""A template and its values in, one page out that holds its style and scripts; what draws charts is not imported."""

from typing import Any

import jinja2

from snaketune.report import bundle
from snaketune.report.text import visible


def fill(template: str, library: str | None = None, **values: Any) -> str:
    """Return a template of this package as a page that holds its style and scripts and loads nothing."""
    library = bundle.charts_library() if library is None else library
    style, boot = bundle.style_sheet(), bundle.boot_script()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(bundle.HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"embedded_json": bundle.embedded_json, "visible": visible}
    policy = bundle.security_policy([library, boot], [style])
    page = environment.get_template(template)
    return page.render(style=style, library=library, boot=boot, policy=policy, **values)
