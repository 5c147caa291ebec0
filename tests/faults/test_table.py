"""The table of faults names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+)(?:-(\d+))? \|", re.MULTILINE)


def test_every_fault_of_the_table_has_a_test_that_exists():
    text = (ROOT / "docs" / "faults.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]
    assert missing == []
    numbers = [n for first, last in ROW.findall(text) for n in range(int(first), int(last or first) + 1)]
    assert numbers == list(range(1, 63))
    assert len(named) >= len(ROW.findall(text))
