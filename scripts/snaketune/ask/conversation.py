"""A conversation with several models at once: each has its own history, and answers are streamed side by side."""

import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Protocol, TextIO

from snaketune.ask.request import AskRequest, with_setting
from snaketune.core.errors import ConfigError, SnaketuneError

COLUMN_GAP = " | "
NARROWEST = 24

HELP = "/system TEXT, /temperature 0.7, /top_p 0.9, /max_new_tokens 200, /seed 1, /new forgets all turns, /quit ends"
ChatTurn = dict[str, str]


class AnsweringModels(Protocol):
    """The models that answer."""

    names: Sequence[str]

    def answer(
        self, chats: Sequence[Sequence[ChatTurn]], request: AskRequest, show: Callable[[Sequence[str]], None]
    ) -> list[str]:
        """Return each model's answer to its own conversation, calling ``show`` with the partial answers."""
        ...


class Conversation:
    """The turns of a user and of each model.

    Args:
        models: the models that answer.
        request: settings of the answers, which the user can change during the conversation.
        note: called with text for the transcript.
        output: stream on which answers are shown.
    """

    def __init__(
        self, models: AnsweringModels, request: AskRequest, note: Callable[[str], None], output: TextIO | None = None
    ):
        self._models, self._request, self._note, self._output = models, request, note, output or sys.stdout
        self._turns: list[list[ChatTurn]] = [[] for _ in models.names]

    def ask(self, question: str) -> list[str]:
        """Show and return the answers to a question, and add them to each model's history."""
        for turns in self._turns:
            turns.append({"role": "user", "content": question})
        system = [{"role": "system", "content": self._request.system}] if self._request.system else []
        display = Display(self._models.names, self._output)
        try:
            answers = self._models.answer([[*system, *turns] for turns in self._turns], self._request, display.show)
        except BaseException:  # also on Ctrl-C: a question without an answer must not stay in the history
            for turns in self._turns:
                turns.pop()
            raise
        lines = display.finish(answers)
        for turns, answer in zip(self._turns, answers, strict=True):
            turns.append({"role": "assistant", "content": answer})
        self._note("\n".join([f"> {question}", *lines, ""]))
        return answers

    def command(self, line: str) -> bool:
        """Execute a line that begins with a slash; return False if it ends the conversation."""
        name, _, value = line[1:].strip().partition(" ")
        if name in ("quit", "exit", "q"):
            return False
        if name == "new":
            self._turns = [[] for _ in self._turns]
        elif name in ("system", "temperature", "top_p", "max_new_tokens", "seed"):
            self._request = with_setting(self._request, name, value.strip())
        else:
            self._say(HELP)
        return True

    def talk(self, lines: TextIO, is_terminal: bool) -> None:
        """Answer line by line until the input ends."""
        if is_terminal:
            self._say(f"Ask a question; {HELP}.")
        while line := self._next(lines, is_terminal):
            try:
                if line.startswith("/") and not self.command(line):
                    return
                if not line.startswith("/") and line.strip():
                    self.ask(line.strip())
            except ConfigError as error:
                self._say(str(error))
            except SnaketuneError as error:
                self._say(f"{error} This turn is discarded.")

    def _next(self, lines: TextIO, is_terminal: bool) -> str:
        if is_terminal:
            self._output.write("> ")
            self._output.flush()
        return lines.readline()

    def _say(self, text: str) -> None:
        self._output.write(f"{text}\n")
        self._output.flush()


def with_system(request: AskRequest, usual: str | None) -> AskRequest:
    """Return the request with the system prompt of the data if it has none itself."""
    return request if request.system is not None else replace(request, system=usual)


def side_by_side(titles: Sequence[str], texts: Sequence[str], width: int) -> list[str]:
    """Return the lines of a table with a title above each text, or of texts below each other if it is too narrow."""
    column = (width - len(COLUMN_GAP) * (len(texts) - 1)) // len(texts)
    if column < NARROWEST:
        return [line for title, text in zip(titles, texts, strict=True) for line in (f"{title}:", *wrap(text, width))]
    blocks = [[title, "-" * column, *wrap(text, column)] for title, text in zip(titles, texts, strict=True)]
    return [
        COLUMN_GAP.join(f"{cell or '':{column}}" for cell in row).rstrip() for row in zip_longest(*blocks, fillvalue="")
    ]


def wrap(text: str, width: int) -> list[str]:
    """Return the lines of a text wrapped at ``width``; its line breaks are kept, control characters are replaced."""
    plain = "".join(mark if mark.isprintable() or mark == "\n" else " " for mark in text.expandtabs(4))
    lines = [textwrap.wrap(line, width, drop_whitespace=False, replace_whitespace=False) for line in plain.split("\n")]
    return [part.rstrip() for line in lines for part in (line or [""])]


class Display:
    """Shows growing texts on a stream: redrawn in place on a terminal, written once at the end otherwise.

    Args:
        titles: a title for each text.
        stream: the output stream.
    """

    def __init__(self, titles: Sequence[str], stream: TextIO):
        self._titles, self._stream, self._drawn = titles, stream, 0

    def show(self, texts: Sequence[str]) -> None:
        """Draw the partial texts, on a terminal only."""
        if self._stream.isatty():
            size = shutil.get_terminal_size()
            self._draw(side_by_side(self._titles, texts, size.columns - 1)[-(size.lines - 2) :])

    def finish(self, texts: Sequence[str]) -> list[str]:
        """Draw the final texts in full and return their lines."""
        lines = side_by_side(self._titles, texts, shutil.get_terminal_size().columns - 1)
        self._draw(lines)
        self._drawn = 0
        return lines

    def _draw(self, lines: Sequence[str]) -> None:
        # Move the cursor up over the previous drawing and erase from there to the end of the screen.
        back = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        self._stream.write(back + "\n".join(lines) + "\n")
        self._stream.flush()
        self._drawn = len(lines)
