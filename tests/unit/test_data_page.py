"""The page on data: its list of bookkeeping names is the code's, and its programs do what it says."""

import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from data_files import read, source

from snaketune.data.conversations.role_names import USUAL_ROLES
from snaketune.data.formats.columns import BOOKKEEPING

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
CASES = Path(__file__).parents[1] / "golden" / "shapes" / "cases"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_names_of_bookkeeping_are_those_of_the_code():
    section = PAGE.split("of any length.\n\n")[1].split("\n\n")[0]
    assert set(re.findall(r"`([^`]+)`", section)) == BOOKKEEPING


@pytest.mark.parametrize(
    ("program", "case", "roles"),
    [
        (PROGRAMS[0], "one_utterance_a_line.jsonl", {"guest": "user", "clerk": "assistant"}),
        (PROGRAMS[1], "message_tree_flat.jsonl", {}),
    ],
)
def test_its_programs_put_messages_together(tmp_path, program, case, roles):
    raw = (CASES / case).read_bytes()
    done = subprocess.run([sys.executable, "-c", program], input=raw, capture_output=True, check=True)
    found = read(tmp_path, source(tmp_path / "x.jsonl", done.stdout), roles=roles)
    texts = [turn["content"] for record in found.records for turn in record["messages"]]
    assert texts == [orjson.loads(line)["text"] for line in raw.splitlines()]
    assert {role for record in found.records for role in [turn["role"] for turn in record["messages"]]} <= {
        *USUAL_ROLES.values()
    }
