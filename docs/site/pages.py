"""Pages of the site that live elsewhere in the project: README.md, config/README.md and what is generated from code.

A hook of MkDocs (`mkdocs.yml`). Links between these files are rewritten, so a link that leads nowhere fails the
build.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# Files outside docs/, and the pages that they become.
PAGES = {
    "README.md": "index.md",
    "config/README.md": "reference/configuration.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
FACTS = (
    "Stages write facts as JSON, and the report, the cards and the next stages read them. Each file has a `format` "
    "number, which rises when its keys change their meaning. These are the types that the code reads and writes."
)
TARGET = re.compile(r"^([a-z-]+):.*?## (.*)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages to those found in docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=linked(text, source, page)))
    files.append(File.generated(config, "reference/commands.md", content=commands(ROOT)))
    files.append(File.generated(config, "reference/facts.md", content=facts(ROOT / "scripts/snaketune/facts")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page in docs/ that leave the folder."""
    source = page.file.src_uri
    if page.file.generated_by:
        return markdown
    if source == "decisions/README.md":
        markdown += decisions(ROOT / "docs/decisions")
    return linked(markdown, f"docs/{source}", source)


def linked(text: str, source: str, page: str) -> str:
    """Return `text` of the file `source` with its links as they are on the page `page`.

    Args:
        text: Markdown.
        source: path of the file within the project.
        page: path of the page within the site, ending in `.md`.
    """

    def rewritten(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = normpath(str(PurePosixPath(source).parent / target))
        place = PAGES.get(path, path.removeprefix("docs/"))
        return f"]({relpath(place, str(PurePosixPath(page).parent))}{anchor})"

    return LINK.sub(rewritten, text)


def decisions(folder: Path) -> str:
    """Return a list of the decisions, each the first heading of its page."""
    pages = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    titles = {path.name: path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for path in pages}
    return "\n" + "".join(f"- [{title}]({name})\n" for name, title in titles.items())


def commands(root: Path) -> str:
    """Return the page of all commands: make's targets and the scripts that rules call, a sentence each."""
    targets = TARGET.findall((root / "Makefile").read_text(encoding="utf-8"))
    scripts = [(path.name, _first_line(path)) for path in sorted((root / "scripts").glob("*.py"))]
    return "\n".join(
        [
            "# Commands",
            "",
            "The targets of Snakemake are on the [overview](../index.md); "
            "every key of the [configuration](configuration.md) can be given with `--config`.",
            "",
            *_table("make", [(f"make {name}", said) for name, said in targets]),
            "",
            "The rules call these scripts. Each prints its arguments with `--help`.",
            "",
            *_table("script", scripts),
            "",
        ]
    )


def facts(folder: Path) -> str:
    """Return the page of all fact files, from the types in `folder`: a section per module, a table per type."""
    modules = [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.py"))]
    sections = [
        line
        for path, module in modules
        if (types := [node for node in module.body if isinstance(node, ast.ClassDef) and _is_typed_dict(node)])
        for line in (f"## {path.stem}", "", ast.get_docstring(module) or "", "", *_types(types))
    ]
    return "\n".join(["# Facts", "", FACTS, "", *sections])


def _is_typed_dict(node: ast.ClassDef) -> bool:
    return bool(node.bases) and not node.decorator_list and any(isinstance(part, ast.AnnAssign) for part in node.body)


def _types(types: list[ast.ClassDef]) -> Iterator[str]:
    for node in types:
        if node.name.startswith("_"):
            continue
        yield from (f"### {node.name}", "", ast.get_docstring(node) or "", "", "| key | type |", "|---|---|")
        for part in node.body:
            if isinstance(part, ast.AnnAssign):
                kind = ast.unparse(part.annotation).replace("|", "\\|")
                yield f"| `{ast.unparse(part.target)}` | `{kind}` |"
        yield ""


def _first_line(path: Path) -> str:
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0]


def _table(title: str, rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {title} | what it does |", "|---|---|", *(f"| `{name}` | {said} |" for name, said in rows)]
