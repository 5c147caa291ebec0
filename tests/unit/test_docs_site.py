"""The documentation as a site: every link leads somewhere, and pages that live elsewhere in the project are on it."""

import ast
import re
import shutil
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from snaketune.config.schema import FileConfig, RunConfig

ROOT = Path(__file__).parents[2]
LONGEST_PATH = 12


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "Makefile"):
        shutil.copy(ROOT / name, folder)
    for name in ("docs", "config"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "scripts").mkdir()
    for script in (ROOT / "scripts").glob("*.py"):
        shutil.copy(script, folder / "scripts")
    shutil.copytree(ROOT / "scripts/snaketune/facts", folder / "scripts/snaketune/facts")
    return folder


def make(project):
    build(load_config(str(project / "mkdocs.yml"), site_dir=str(project / "site")))


def test_the_site_builds_and_a_link_that_leads_nowhere_stops_it(project):
    make(project)
    pages = {path.name for path in (project / "site").rglob("*.html")}
    assert {"index.html", "configuration.html", "commands.html", "architecture.html"} <= pages
    assert "make gpu-check" in (project / "site/reference/commands.html").read_text()
    assert "bits_per_byte" in (project / "site/reference/facts.html").read_text()
    page = project / "docs/install.md"
    page.write_text(page.read_text() + "\n[nowhere](../config/nothing.md)\n")
    with pytest.raises(Abort):
        make(project)


def test_every_page_is_in_the_navigation():
    sections = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = {path for section in sections for pages in section.values() for page in pages for path in page.values()}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= named


def test_links_between_folders_become_links_of_the_site():
    spec = spec_from_file_location("pages", ROOT / "docs/site/pages.py")
    pages = module_from_spec(spec)
    spec.loader.exec_module(pages)
    text = "[a](docs/plan.md) [b](config/README.md#keys) [c](https://example.org/x.md)"
    assert pages.linked(text, "README.md", "index.md") == (
        "[a](plan.md) [b](reference/configuration.md#keys) [c](https://example.org/x.md)"
    )
    assert pages.linked("[a](../docs/plan.md)", "config/README.md", "reference/configuration.md") == "[a](../plan.md)"
    assert pages.linked("[a](../README.md)", "docs/plan.md", "plan.md") == "[a](index.md)"


def test_the_architecture_follows_a_record_through_at_most_twelve_files_that_exist():
    text = (ROOT / "docs/architecture.md").read_text()
    files = re.findall(r"^\*\*\d+\. `([^`]+)`", text, re.MULTILINE)
    assert 0 < len(files) <= LONGEST_PATH
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_what_architecture_names_in_a_file_is_defined_there():
    text = (ROOT / "docs/architecture.md").read_text()
    steps = re.split(r"^\*\*\d+\. ", text.split("## One record")[1].split("\n## ")[0], flags=re.MULTILINE)[1:]
    named = [(re.match(r"`([^`]+)`", step)[1], name) for step in steps for name in re.findall(r"`(\w+)\(\)`", step)]
    assert len({file for file, _ in named}) == len(steps) - 1  # all but the rules
    defined = re.compile(r"^(?:def|class) (\w+)", re.MULTILINE)
    assert [each for each in named if each[1] not in defined.findall((ROOT / each[0]).read_text())] == []


def test_architecture_lists_every_package():
    table = (ROOT / "docs/architecture.md").read_text().split("| package |")[1].split("\n\n")[0]
    packages = {path.parent.name for path in (ROOT / "scripts/snaketune").glob("*/__init__.py")}
    assert {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])} == packages


def test_every_message_that_troubleshooting_quotes_exists():
    text = re.sub(r"\s+", " ", (ROOT / "docs/troubleshooting.md").read_text())
    quoted = [quote for bold in re.findall(r"\*\*(.+?)\*\*", text) for quote in re.findall(r"`([^`]+)`", bold)]
    assert len(quoted) > 15
    assert [quote for quote in quoted if not any(pattern_of(quote).search(message) for message in all_messages())] == []


def test_every_message_that_the_page_on_templates_lists_exists():
    text = (ROOT / "docs/templates.md").read_text().split("## What is refused")[1].split("\n## ")[0]
    rows = [row for row in text.splitlines() if row.startswith("| `")]
    quoted = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert len(quoted) > 12
    assert [quote for quote in quoted if not any(pattern_of(quote).search(message) for message in all_messages())] == []


def test_sentences_that_the_tutorial_shows_are_still_printed():
    """A sentence of the output is one of the messages with something in its places, of which enough words are left."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs/tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
    output = "\n".join(block for language, block in blocks if not language and block.startswith("$ snakemake"))
    lines = re.sub(r"\n {2,}(?=\S)", " ", output).splitlines()
    shown = [line for line in lines if line.endswith(".") and len(line.split()) > 8 and "|" not in line]
    messages = [message for message in all_messages() if len(re.findall(r"\w{2,}", message.replace("…", " "))) > 4]
    patterns = [re.compile(".*?".join(re.escape(part) for part in message.split("…"))) for message in messages]
    assert len(shown) >= 5
    assert [line for line in shown if not any(pattern.search(line) for pattern in patterns)] == []


def test_yaml_on_the_pages_is_a_configuration():
    known = RunConfig.model_fields.keys() | FileConfig.model_fields.keys()
    for path in (ROOT / "README.md", ROOT / "config/README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            assert yaml.safe_load(block).keys() <= known, (path.name, block)


@cache
def all_messages():
    return [message for path in (ROOT / "scripts").rglob("*.py") for message in messages_in(path)]


def messages_in(path):
    """Yield the texts in a module; what an f-string fills in is an ellipsis."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def pattern_of(quote):
    return re.compile(".*".join(re.escape(part.strip()) for part in quote.rstrip(".").split("…")))
