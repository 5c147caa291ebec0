"""Text that users read keeps to the words of the field: messages, pages, rule titles and command lines."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNWANTED = re.compile(
    r"\b(anew|nobody|there is none|can(?:not)? be had|mend(?:s|ed)?|(?:lie|lies) in|came to no end|how dear"
    r"|page that says what happened|not be found out|number formats?|any more|(?:goes|go|gone) on from"
    r"|other rows at a time|twice the rows at a time|for ever|by circumstances|in vain|has not the form|what it takes"
    r"|(?<!there )(?:is|are) no (?:regular|JSON|list|file|record|key|stage|tensor)|model of text"
    r"|(?:its|our) own has to be|a look needs|is not sent again|are alike by design"
    r"|somebody|are said|said so|stand(?:s)? (?:behind|beside)|as (?:it|they) stands?|in each other's way|as seldom as"
    r"|(?:slow|fast) way|rows? at once|goes away|makes room"
    r"|set differently|how far it came|go on|at the beginning of the chain|taken away|a sentence comes|a look"
    r"|is not looked at|asks for a look|quiet machine|on paper|are told|to be had|of one's own"
    r"|by the clock|its kin|how sure|what became of|is said not|each way in a process|people (?:compute|report))\b",
    re.IGNORECASE,
)


def messages(path):
    """Yield the texts in the code of a module with their lines; docstrings are not shown to users."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def pages():
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile", "envs/install.sh"))
    for pattern in ("docs/**/*.md", "config/*.md", "config/**/*.yaml", "rules/*.smk", "scripts/**/*.j2", "envs/*.md"):
        yield from sorted(ROOT.glob(pattern))


def found_in(lines):
    return [f"{number}: {text.strip()[:100]}" for number, text in lines if UNWANTED.search(text)]


@pytest.mark.parametrize("path", list(pages()), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_uses_no_unwanted_word(path):
    assert found_in(enumerate(path.read_text(encoding="utf-8").splitlines(), 1)) == []


def test_no_message_uses_an_unwanted_word():
    found = {str(path.relative_to(ROOT)): found_in(messages(path)) for path in sorted((ROOT / "scripts").rglob("*.py"))}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_an_unwanted_word_is_noticed(tmp_path):
    path = tmp_path / "module.py"
    path.write_text('"""Made anew."""\nraise ValueError(f"{1} is made anew")\n')
    assert found_in(messages(path)) == ["2: is made anew"]
