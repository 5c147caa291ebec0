"""The text that a chat template writes around every question, shown once to keep the questions readable."""

import re
from dataclasses import dataclass

# Control tokens as templates write them; no request may spell one, so that a shared one is the template's own.
ENDING = re.compile(r"<[|\uff5c][^<>|\uff5c\s]+[|\uff5c]>|<(?:end_of_turn|/s|eos)>|\[/INST\]")
# Those that a question follows on the same line.
OPENING = re.compile(r"\[INST\] ?|<[|\uff5c](?:[Uu]ser|message|im_sep|end_header_id)[|\uff5c]>")


@dataclass(frozen=True, slots=True)
class Frame:
    """The whole lines with which all prompts begin, or end, and the control tokens on the line of the question."""

    before: str = ""
    after: str = ""

    def inside(self, prompt: str) -> str:
        """Return ``prompt`` without the frame."""
        return prompt[len(self.before) : len(prompt) - len(self.after)]


class SharedText:
    """Finds the frame of prompts that are added one by one."""

    def __init__(self) -> None:
        self._prompts = self._shortest = 0
        self._first = self._last = ""

    def add(self, prompt: str) -> None:
        """Add a prompt."""
        backwards = prompt[::-1]
        self._first = _shared(self._first, prompt) if self._prompts else prompt
        self._last = _shared(self._last, backwards) if self._prompts else backwards
        self._shortest = min(self._shortest, len(prompt)) if self._prompts else len(prompt)
        self._prompts += 1

    def frame(self) -> Frame:
        """Return the text that all prompts share; empty for a single prompt, or if the shortest has nothing else."""
        before, after = _beginning(self._first), _ending(self._last[::-1])
        return Frame() if self._prompts < 2 or len(before) + len(after) >= self._shortest else Frame(before, after)


def _shared(one: str, other: str) -> str:
    """Return the beginning that two texts have in common."""
    length = min(len(one), len(other))
    return one[: next((place for place in range(length) if one[place] != other[place]), length)]


def _beginning(shared: str) -> str:
    """Return the whole lines of a shared beginning, and the next line up to the control token before the question."""
    line = shared.rfind("\n") + 1
    return shared[: max([line, *(mark.end() for mark in OPENING.finditer(shared, line))])]


def _ending(shared: str) -> str:
    """Return the whole lines of a shared ending, and of the line before them what begins with a control token."""
    line = shared.find("\n") + 1 or len(shared)
    mark = ENDING.search(shared, 0, line)
    return shared[mark.start() if mark else line :]
