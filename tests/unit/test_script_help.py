"""Each script is a command line of its own: short, with typed flags and a sentence for each."""

import argparse
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
RULES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")))
LINES_OF_A_SCRIPT = 35


class Parsed(Exception):
    """The parser of a script, in place of what it goes on to do."""


@pytest.fixture
def parser_of(monkeypatch):
    def stop(parser, *_):
        raise Parsed(parser)

    def parser_of(path):
        monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
        spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed) as found:
            module.main()
        return found.value.args[0]

    return parser_of


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_flag_has_a_sentence_and_paths_are_paths(path, parser_of):
    parser = parser_of(path)
    assert parser.description and "Arguments:" not in parser.description
    for action in parser._actions:
        assert action.help and len(action.help.split()) > 2, action.option_strings
        assert action.type or action.metavar == "TEXT" or action.dest in ("help", "spec") or action.nargs == 0
    assert "%(" not in parser.format_help()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_rules_give_the_flags_that_a_script_has(path, parser_of):
    actions = parser_of(path)._actions
    for shell in re.findall(rf'"[^"]*python scripts/{path.name} (.*?)\n\n', RULES, re.DOTALL):
        given = set(re.findall(r"--[\w-]+", shell))
        assert given <= {word for action in actions for word in action.option_strings}
        assert {action.option_strings[0] for action in actions if action.required} <= given


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_a_command_line_and_no_engine(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_OF_A_SCRIPT
