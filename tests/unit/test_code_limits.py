"""The limits that CONTRIBUTING.md states: size of modules, functions and folders, and names that say what they are."""

import ast
import re
import tokenize
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "scripts" / "snaketune"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
LINES_OF_A_MODULE, LINES_OF_A_FUNCTION, MODULES_OF_A_FOLDER = 300, 60, 20
# Longer, and listed so that none is added unseen: one subject each that reads worse in two files.
LONG_MODULES = {
    "train/trainer.py",
}
LINES_OF_COMMON, LINES_OF_A_RULE = 120, 30
LONG_FUNCTIONS = {
    "train/run.py::prepare_run",
}
# A module with fewer lines and one importer is part of that one, or of a neighbour, but for this many.
SMALL, SMALL_MODULES = 60, 5
# One name for one thing: a search finds it. The few that are left are a type variable and constants of one module each.
REPEATED_FILE_NAMES, REPEATED_NAMES = 5, 40
GENERATED = "Generated from the configuration's models: run `make generate`."
# Lowest number of comment lines per line of code, docstrings excluded. Raise it when the share has risen.
COMMENTS = 0.033
COINAGES = re.compile(
    r"(^|_)(door|stand_ins|outlook|effort|shortage|surroundings|team|shares|sides|stands|likeness|companions|statement"
    r"|stops|chance|thinning|cadence|earlier|remembering|material|attempts|upkeep|blueprint|discovery|head|meters)$"
)
IMPORT = re.compile(
    r"^ *(?:from (snaketune[\w.]*) import|import (snaketune[\w.]*))(?: (\w[^\n]*|\([^)]*\)))?", re.MULTILINE
)


@cache
def tree_of(path):
    """Return the syntax of a module, which several tests look at."""
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def long_functions():
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and node.end_lineno - node.lineno >= LINES_OF_A_FUNCTION:
                yield f"{name_of(path)}::{node.name}"


def test_no_module_is_longer_than_the_limit_but_the_listed_ones():
    long = {name_of(path) for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > LINES_OF_A_MODULE}
    assert long == LONG_MODULES


def test_no_function_is_longer_than_the_limit_but_the_listed_ones():
    assert set(long_functions()) == LONG_FUNCTIONS


def test_no_folder_holds_more_modules_than_can_be_looked_over():
    sizes = Counter(path.parent for path in MODULES)
    assert {name_of(folder): size for folder, size in sizes.items() if size > MODULES_OF_A_FOLDER} == {}


def importers():
    """The files that import each module of the package, or anything out of it; rules are read as text."""
    found = defaultdict(set)
    known = {"snaketune." + name_of(path).removesuffix(".py").replace("/", "."): path for path in MODULES}
    files = [*(ROOT / "scripts").rglob("*.py"), *(ROOT / "rules").glob("*.smk"), ROOT / "Snakefile"]
    for file in files:
        for line in IMPORT.finditer(file.read_text(encoding="utf-8")):
            names = {line[1], line[2], *(f"{line[1]}.{name}" for name in re.findall(r"\w+", line[3] or ""))}
            for name in names & known.keys():
                found[known[name]].add(file)
    return found


BROKEN = {
    test_no_module_is_longer_than_the_limit_but_the_listed_ones: "x = 1\n" * (LINES_OF_A_MODULE + 1),
    test_no_function_is_longer_than_the_limit_but_the_listed_ones: "def f():\n" + "    pass\n" * LINES_OF_A_FUNCTION,
}


@pytest.mark.parametrize("limit", BROKEN, ids=lambda limit: limit.__name__)
def test_a_limit_that_is_broken_is_noticed(limit, tmp_path, monkeypatch):
    long, short = tmp_path / "long.py", tmp_path / "short.py"
    long.write_text(BROKEN[limit])
    short.write_text("x = 1\n")
    for name, value in {
        "PACKAGE": tmp_path,
        "LONG_MODULES": set(),
        "LONG_FUNCTIONS": set(),
        "MODULES": [short],
    }.items():
        monkeypatch.setitem(globals(), name, value)
    limit()
    MODULES.append(long)
    with pytest.raises(AssertionError, match=r"long\.py"):
        limit()


def test_few_modules_are_small_and_serve_one_other():
    found = importers()
    texts = {path: path.read_text(encoding="utf-8") for path in MODULES}
    # A section of the configuration is a module, however few keys it has: those are generated.
    small = [path for path, text in texts.items() if len(text.splitlines()) < SMALL and GENERATED not in text]
    alone = [name_of(path) for path in small if len(found[path]) <= 1]
    assert len(alone) <= SMALL_MODULES, alone


def test_rules_are_short_and_common_smk_has_none():
    lines = {path.name: path.read_text(encoding="utf-8").splitlines() for path in (ROOT / "rules").glob("*.smk")}
    assert len(lines["common.smk"]) <= LINES_OF_COMMON
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")))
    rules = re.findall(r"^(?:rule|checkpoint) (\w+):\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    long = {name for name, body in rules if len(body.rstrip().splitlines()) + 1 > LINES_OF_A_RULE}
    assert len(rules) > 30 and not long, long


def test_file_names_are_terms_of_the_field():
    assert [name_of(path) for path in MODULES if COINAGES.search(path.stem)] == []


def public_names(path):
    """The public names that a module defines at its top level; those that it imports are another's."""
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found = [node.name]
        else:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [inner for target in targets if target for inner in ast.walk(target)]
            found = [name.id for name in names if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]
        yield from (name for name in found if not name.startswith("_"))


def test_few_files_have_the_same_name():
    places = defaultdict(list)
    for path in MODULES:
        places[path.name].append(name_of(path))
    repeated = {name: found for name, found in places.items() if len(found) > 1}
    assert len(repeated) <= REPEATED_FILE_NAMES, repeated


def test_few_public_names_are_defined_in_more_than_one_module():
    places = defaultdict(set)
    for path in MODULES:
        for name in public_names(path):
            places[name].add(name_of(path))
    repeated = {name: sorted(found) for name, found in places.items() if len(found) > 1}
    assert len(places) > 2000 and "TokenLimits" in places and "LINES_OF_A_MODULE" not in places
    assert len(repeated) <= REPEATED_NAMES, repeated


def test_facts_are_read_by_typed_keys():
    """No look-up by a path in a string: a key that is misspelt is found by mypy, and a wrong value when it is read."""
    assert [name_of(path) for path in MODULES if "get_path(" in path.read_text(encoding="utf-8")] == []


def test_settings_have_types():
    """Only the workflow, which handles the slices of all stages alike, has one as a plain dictionary."""
    untyped = re.compile(r"\bcfg: (dict|Mapping)\[str, Any\]")
    assert [name_of(path) for path in MODULES if untyped.search(path.read_text(encoding="utf-8"))] == [
        "workflow/stages.py"
    ]


def test_the_jobs_of_stages_have_typed_settings():
    """A key that is misspelt is found by mypy; only the description of a run has the slices of all stages alike."""
    untyped = re.compile(r"^    (cfg|settings): Any\b", re.MULTILINE)
    assert [name_of(path) for path in MODULES if untyped.search(path.read_text(encoding="utf-8"))] == [
        "report/run/history.py"
    ]


def comments_and_code(path):
    """Return the numbers of lines with a comment and of all lines but blank ones and texts that stand alone."""
    comments, lines = set(), set()
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                comments.add(token.start[0])
            elif token.string.strip():
                lines.update(range(token.start[0], token.end[0] + 1))
    texts = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            texts.update(range(node.lineno, node.end_lineno + 1))
    return len(comments), len((lines | comments) - texts)


def test_code_says_why():
    """Generated modules do not count."""
    counts = [comments_and_code(path) for path in MODULES if GENERATED not in path.read_text(encoding="utf-8")]
    comments, code = map(sum, zip(*counts, strict=True))
    assert comments / code >= COMMENTS, (comments, code)
