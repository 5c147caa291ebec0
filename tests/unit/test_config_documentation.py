import subprocess
import sys
from pathlib import Path

from snaketune.config.documentation import readme, schema
from snaketune.config.known_keys import all_keys

ROOT = Path(__file__).parents[2]


def test_generated_files_are_in_step_with_the_schema():
    check = subprocess.run(
        [sys.executable, ROOT / "scripts/generate_docs.py", "--check"], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr


def test_every_key_is_documented_with_a_meaning():
    text = readme(ROOT / "config" / "presets")
    for key in all_keys():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{key}` |")]
        assert "None" not in row.split("|")[4]


def test_editors_accept_a_partial_run():
    assert '"required"' not in schema()
