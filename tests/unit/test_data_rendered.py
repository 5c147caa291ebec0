"""Conversations that are one text, taken apart by the markup of a template."""

import pytest

from snaketune.data.conversations.marked_up_text import MARKUPS, turns_in


@pytest.mark.parametrize("name", MARKUPS)
@pytest.mark.parametrize("blank", [" ", "\n"])
def test_no_markup_is_slow_on_white_space(name, blank):
    # Time that grows with the square of the blanks would be minutes here.
    many = blank * 200_000
    for text in (f"{many}x", f"[INST] a{many}[/INST] b{many}x", f"USER: a{many}ASSISTANT: b{many}", f"User: a{many}x"):
        turns_in(text, name)
