"""Judges finished rows of a conversation with transformers alone: nothing of snaketune's data code is used here."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

Turn = dict[str, Any]
Row = tuple[list[int], list[int]]  # ids and mask
DAY = datetime(2026, 1, 1)
THINK = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
# What else may stand in an answer: marks of reasoning and of calls, which each template writes in its own way.
ROLE_WORDS = re.compile(r"\b(?:user|system|human|observation|ipython)\b", re.IGNORECASE)


@contextmanager
def _fixed_clock() -> Iterator[None]:
    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return DAY

    real = chat_template_utils.datetime
    chat_template_utils.datetime = Fixed
    try:
        yield
    finally:
        chat_template_utils.datetime = real


class Judge:
    """Compares rows with what transformers gives at inference.

    Args:
        folder: the tokenizer.
        source: the chat template.
        stops: ids at which generation stops.
    """

    def __init__(self, folder: Path, source: str, stops: set[int]):
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        self._source, self._stops = source, stops
        self.in_parts = False
        self.in_parts = not self._writes_text()

    def _writes_text(self) -> bool:
        try:
            return "Quinces" in self.text([{"role": "user", "content": "Quinces"}], None)
        except Exception:
            return False

    def text(self, messages: Sequence[Turn], tools: list[Turn] | None, prompt: bool = False) -> str:
        """Return the text that transformers renders."""
        with _fixed_clock():
            return self._tokenizer.apply_chat_template(
                self._given(messages), tools=tools, chat_template=self._source, add_generation_prompt=prompt,
                tokenize=False,
            )  # fmt: skip

    def ids(self, messages: Sequence[Turn], tools: list[Turn] | None, prompt: bool = False) -> list[int]:
        """Return the ids that transformers gives."""
        with _fixed_clock():
            return self._tokenizer.apply_chat_template(
                self._given(messages), tools=tools, chat_template=self._source, add_generation_prompt=prompt,
                tokenize=True, return_dict=False,
            )  # fmt: skip

    def _given(self, messages: Sequence[Turn]) -> list[Turn]:
        given = []
        for message in messages:
            turn = {key: value for key, value in message.items() if value is not None and key != "weight"}
            if self.in_parts and "content" in turn:
                turn["content"] = [{"type": "text", "text": turn["content"]}]
            given.append(turn)
        return given

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens spelled out."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def faults(self, messages: Sequence[Turn], tools: list[Turn] | None, rows: Sequence[Row], lost: int) -> list[str]:
        """Return what is wrong with the rows of a conversation.

        Args:
            messages: the record's own.
            tools: the tools on offer.
            rows: ids and mask of each row.
            lost: answers whose reasoning is reported as left out.
        """
        wanted = [n for n, turn in enumerate(messages) if turn["role"] == "assistant" and turn.get("weight") != 0]
        found: list[str] = []
        places: list[int] = []
        for ids, mask in rows:
            runs = list(_runs(mask))
            for start, end in runs:
                given = self._place(messages, tools, ids[:start], [n for n in wanted if n not in places])
                if given is None:
                    found.append(f"no prompt of inference ends there: {self.decode(ids[:start])[-80:]!r}")
                    continue
                places.append(given[0])
                found += self._of_answer(messages, tools, given, ids[start:end], lost)
            if runs:
                found += self._of_history(messages, tools, ids[: runs[-1][0]], max(places, default=0))
        if not found and sorted(places) != wanted:
            found.append(f"answers {wanted} are wanted, {sorted(places)} are trained")
        return found

    def _place(
        self, messages: Sequence[Turn], tools: list[Turn] | None, before: list[int], among: list[int]
    ) -> tuple[int, int] | None:
        """Return which answer's prompt ``before`` is, and in which form of the history."""
        for place in among:
            for form, history in enumerate(_forms(messages[:place])):
                if self.ids(history, tools, True) == before:
                    return place, form
        return None

    def _of_answer(
        self, messages: Sequence[Turn], tools: list[Turn] | None, given: tuple[int, int], ids: list[int], lost: int
    ) -> Iterator[str]:
        place, _ = given
        turn, said = messages[place], self.decode(ids)
        if ids[-1] not in self._stops:
            yield f"does not end with a stop token: {said[-60:]!r}"
        if set(ids[:-1]) & self._stops:
            yield f"goes on after a stop token: {said!r}"
        content, reasoning = _apart(turn)
        for what, text in _parts_of(content, turn):
            if not _is_in(text, said):
                yield f"{what} {text!r} is not trained: {said!r}"
        if reasoning and not _is_in(reasoning, said) and not lost:
            yield f"the reasoning {reasoning!r} is lost in silence: {said!r}"
        for other in messages[:place]:
            for text in _words(other):
                if _is_in(text, said) and not any(_is_in(text, own) for own in _words(turn)):
                    yield f"{text!r} of the {other['role']} is trained: {said!r}"
        is_rendered, different = self._as_rendered(messages, tools, given, ids)
        if is_rendered:
            return
        if different:
            yield f"the template writes {different[0]!r}, trained is {said!r}"
        rest = said
        for text in sorted(_words(turn), key=len, reverse=True):
            rest = rest.replace(text.strip(), "")
        if found := ROLE_WORDS.search(rest[: -len(self.decode(ids[-1:]))]):
            yield f"the word {found.group()!r} is trained: {said!r}"

    def _as_rendered(
        self, messages: Sequence[Turn], tools: list[Turn] | None, given: tuple[int, int], ids: list[int]
    ) -> tuple[bool, list[str]]:
        """Tell whether an answer is the template's own text behind the prompt; else return what it writes there."""
        place, form = given
        said = self.decode(ids)
        bare = said.removesuffix(self.decode(ids[-1:])).strip()
        _, reasoning = _apart(messages[place])
        different = []
        for number, history in enumerate(_forms(messages[: place + 1])):
            prompt, whole = self.text(history[:place], tools, True), self.text(history, tools)
            if not whole.startswith(prompt):
                # The history of this form is another one: whether the template would write this is not known.
                if number == form:
                    return False, []
                continue
            own = whole[len(prompt) :]
            # A prompt that opens reasoning has that of the record behind it, which the template may leave out.
            if own.startswith(said) or own.strip() == bare or _squeezed(said) in _squeezed(reasoning + own):
                return True, []
            different.append(own)
        return False, different

    def _of_history(
        self, messages: Sequence[Turn], tools: list[Turn] | None, ids: list[int], place: int
    ) -> Iterator[str]:
        text = self.decode(ids)
        for other in messages[:place]:
            content, _ = _apart(other)
            for what, part in _parts_of(content, other):
                if not _is_in(part, text):
                    yield f"{what} {part!r} of the {other['role']} is not in the text"
        for tool in tools or ():
            if not _is_in(tool["function"]["name"], text):
                yield f"the tool {tool['function']['name']!r} is not in the text"


def _runs(mask: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = None
    for place, flag in enumerate([*mask, 0]):
        if flag and start is None:
            start = place
        elif not flag and start is not None:
            yield start, place
            start = None


def _apart(turn: Turn) -> tuple[str, str]:
    content = turn.get("content") or ""
    found = THINK.match(content) if turn["role"] == "assistant" else None
    if found:
        return content[found.end() :], found[1].strip()
    return content, turn.get("reasoning_content", "")


def _forms(messages: Sequence[Turn]) -> Iterator[list[Turn]]:
    """The ways in which a client may hand over reasoning: as it is, under other names, split from a content."""
    yield list(messages)
    fields = []
    for turn in messages:
        content, reasoning = _apart(turn)
        if reasoning:
            turn = {**turn, "reasoning_content": reasoning, "thinking": reasoning}
            turn["content"] = content if turn.get("content") is not None else None
        fields.append(turn)
    yield fields
    yield [
        {key: value for key, value in turn.items() if key not in ("reasoning_content", "thinking")} for turn in fields
    ]
    # Keys without a text: absent or empty.
    yield [{**turn, "content": turn.get("content") or ""} for turn in fields]


def _parts_of(content: str, turn: Turn) -> Iterator[tuple[str, str]]:
    if content.strip():
        yield "the text", content
    for call in turn.get("tool_calls", ()):
        yield "the call", call["function"]["name"]
        for key, value in call["function"]["arguments"].items():
            yield "the argument", key
            yield "the argument", value
    if turn.get("name") and turn["role"] != "tool":
        yield "the name", turn["name"]


def _words(turn: Turn) -> list[str]:
    content, reasoning = _apart(turn)
    return [text for _, text in _parts_of(content, turn)] + ([reasoning] if reasoning else [])


def _is_in(part: str, text: str) -> bool:
    whole = _squeezed(text)
    return any(_squeezed(form) in whole for form in (part, json.dumps(part), json.dumps(part, ensure_ascii=False)))


def _squeezed(text: str) -> str:
    return re.sub(r"[\s\\\"'`]+", "", text)
