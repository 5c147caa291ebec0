"""Control tokens that no trained answer may contain: those of headers and of other roles' turns.

They are found by rendering a few probes and reading the text between known contents. The code that finds answers is not
used here, so that the mask audit can detect its faults.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

RenderTurns = Callable[[Sequence[dict[str, Any]], bool], str]
# Private-use characters: no template treats them as white space, letters or digits.
SYSTEM, ASK, SAID_MARK, AGAIN, THOUGHT, CALLED, RESULT_MARK = map(chr, range(0xF2001, 0xF2008))


def _turn(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


_CALL = {"id": "c00000000", "type": "function", "function": {"name": "f", "arguments": {"a": CALLED}}}
_ANSWERED = [_turn("user", ASK), _turn("assistant", SAID_MARK)]
_CALLING = [_turn("user", ASK), _turn("assistant", "", tool_calls=[_CALL])]
_THINKING = {"reasoning_content": THOUGHT, "thinking": THOUGHT}
# Turns, whether to add the generation prompt, and the contents between which other roles speak ('': to the end).
OTHERS: tuple[tuple[list[dict[str, Any]], bool, str, str], ...] = (
    ([_turn("user", ASK)], True, ASK, ""),
    ([_turn("system", SYSTEM), _turn("user", ASK)], False, SYSTEM, ASK),
    ([*_ANSWERED, _turn("user", AGAIN)], False, SAID_MARK, AGAIN),
    ([*_CALLING, _turn("tool", RESULT_MARK, tool_call_id="c00000000", name="f")], False, CALLED, RESULT_MARK),
    ([*_CALLING, _turn("tool", RESULT_MARK, tool_call_id="c00000000", name="f")], True, RESULT_MARK, ""),
)
# Turns, and two contents of one answer: tokens between them may occur inside answers.
INSIDE: tuple[tuple[list[dict[str, Any]], str, str], ...] = (
    ([_turn("user", ASK), _turn("assistant", SAID_MARK, **_THINKING)], THOUGHT, SAID_MARK),
    ([_turn("user", ASK), _turn("assistant", f"<think>{THOUGHT}</think>{SAID_MARK}")], THOUGHT, SAID_MARK),
    ([_turn("user", ASK), _turn("assistant", SAID_MARK, tool_calls=[_CALL])], SAID_MARK, CALLED),
    ([_turn("user", ASK), _turn("assistant", "", tool_calls=[_CALL], **_THINKING)], THOUGHT, CALLED),
    ([_turn("user", ASK), _turn("assistant", "", tool_calls=[_CALL, {**_CALL, "id": "c00000001"}])], CALLED, CALLED),
)


def foreign_tokens(render: RenderTurns, control: re.Pattern[str] | None, stops: Iterable[str]) -> frozenset[str]:
    """Return the control tokens that occur only in headers and in turns of other roles.

    Args:
        render: renders turns, with or without the generation prompt.
        control: matches any control token, which no content spells.
        stops: the tokens at which an answer may end.
    """
    if control is None:
        return frozenset()
    ends, found, own = frozenset(stops), set(), set()
    for turns, prompt, begin, end in OTHERS:
        between = control.findall(_between(render, turns, prompt, begin, end))
        if begin in (SAID_MARK, CALLED):  # it begins inside an answer; only what follows the answer's end is foreign
            places = [place for place, token in enumerate(between) if token in ends]
            between = between[places[0] + 1 :] if places else []
        found.update(between)
    own.update(control.findall(_beside(render, ends)))
    for turns, begin, end in INSIDE:
        own.update(control.findall(_between(render, turns, False, begin, end)))
    return frozenset(found) - own - ends


def _beside(render: RenderTurns, ends: frozenset[str]) -> str:
    """Return the text of an answer around its content, up to its stop token, if it follows the prompt."""
    try:
        prompt, whole = render(_ANSWERED[:1], True), render(_ANSWERED, False)
    except Exception:  # as in _between
        return ""
    before, _, after = whole.partition(SAID_MARK)
    places = [place for place in map(after.find, ends) if place >= 0]
    return before.removeprefix(prompt) * before.startswith(prompt) + after[: min(places, default=0)]


def _between(render: RenderTurns, turns: Sequence[dict[str, Any]], prompt: bool, begin: str, end: str) -> str:
    """Return the text between two contents, '' if the template refuses the turns or does not write both."""
    try:
        text = render(turns, prompt)
    except Exception:  # a template may refuse a probe with any exception; such a probe yields no tokens
        return ""
    first, last = text.find(begin), text.rfind(end) if end else len(text)
    return text[first + len(begin) : last] if 0 <= first < last else ""
