"""A template and its values in, one page out that holds its style, its script and its charts."""

from typing import Any

import jinja2

from snaketune.report import bundle
from snaketune.report.charts.svg import drawn
from snaketune.report.text import visible


def fill(template: str, **values: Any) -> str:
    """Return a template of this package as a page that holds its style and script and loads nothing."""
    style, boot = bundle.style_sheet(), bundle.boot_script()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(bundle.HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"drawn": drawn, "visible": visible}
    policy = bundle.security_policy([boot], [style])
    page = environment.get_template(template)
    return page.render(style=style, boot=boot, policy=policy, **values)
