"""Warnings of other libraries never reach the user; errors do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
LOUD = {"TRANSFORMERS_VERBOSITY": "debug", "DATASETS_VERBOSITY": "debug", "HF_HUB_VERBOSITY": "debug"}
TOKENIZING = """
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
inner = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=4)("a b a b a b a b")
"""
LOGGING = """
import logging
from transformers.utils import logging as theirs
logging.getLogger("datasets.arrow").warning("a warning of datasets")
theirs.get_logger("transformers.x").warning("a warning of transformers")
theirs.get_logger("transformers.x").error("an ERROR of transformers")
"""
WARNING = """
import warnings
warnings.warn_explicit("a warning of peft", UserWarning, "peft/x.py", 1, module="peft.x")
warnings.warn_explicit("a warning of OURS", UserWarning, "ours.py", 1, module="ours")
"""


def screen_of(code, hushed=True):
    body = "\n".join(f"    {line}" for line in code.strip().splitlines())
    start = "from snaketune.core.cli import run\n" if hushed else "def run(main): main()\n"
    program = f"{start}def main():\n{body}\nif __name__ == '__main__':\n    run(main)\n"
    environment = {**os.environ, **(LOUD if hushed else {}), "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "said", "stays"),
    [
        (TOKENIZING, "indexing errors", ""),
        (LOGGING, "a warning of", "an ERROR of transformers"),
        (WARNING, "a warning of peft", "a warning of OURS"),
    ],
)
def test_a_stage_says_nothing_of_other_libraries_warnings(code, said, stays):
    screen = screen_of(code)
    assert said not in screen
    assert stays in screen
    assert said in screen_of(code, hushed=False)
