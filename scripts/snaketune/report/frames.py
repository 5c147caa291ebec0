"""What a chat template writes around every question: shown once, so that the questions themselves can be read."""

from dataclasses import dataclass
from itertools import takewhile


@dataclass(frozen=True, slots=True)
class Frame:
    """The whole lines, with their ends, with which all prompts begin, and those with which they end."""

    before: str = ""
    after: str = ""

    def inside(self, prompt: str) -> str:
        """Return ``prompt`` without the frame."""
        return prompt[len(self.before) : len(prompt) - len(self.after)]


class SharedLines:
    """Finds the frame of prompts that come one by one."""

    def __init__(self) -> None:
        self._prompts = self._shortest = 0
        self._first: list[str] = []
        self._last: list[str] = []

    def add(self, prompt: str) -> None:
        """Take in a prompt."""
        lines = prompt.splitlines(keepends=True)
        self._first = _shared(self._first, lines) if self._prompts else lines
        self._last = _shared(self._last, lines[::-1]) if self._prompts else lines[::-1]
        self._shortest = min(self._shortest, len(prompt)) if self._prompts else len(prompt)
        self._prompts += 1

    def frame(self) -> Frame:
        """Return what the prompts share; nothing of a single one, or where the shortest would have nothing left."""
        before, after = "".join(self._first), "".join(self._last[::-1])
        return Frame() if self._prompts < 2 or len(before) + len(after) >= self._shortest else Frame(before, after)


def _shared(known: list[str], lines: list[str]) -> list[str]:
    return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(known, lines, strict=False))]
