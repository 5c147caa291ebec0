"""One answer as at inference: the prompt that the template gives, and what the model has to generate up to its stop.

The prompt is the previous turns rendered with ``add_generation_prompt=True``. The answer is what the template writes
after that prompt, up to and including the first token at which generation stops. Nothing else is trained.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from snaketune.core.errors import DataError
from snaketune.data.conversations.reasoning import behind, opened_reasoning, reasoning_of, split_content
from snaketune.data.templates.answer_search import after_header, after_history, end_of_text, wrong_end
from snaketune.data.templates.templates import CharacterSpan, ChatTemplate, Message

# Private-use characters as contents: they are not in templates, and no template treats them as white space or letters.
QUESTION = {"role": "user", "content": "\U000f0001"}
ANSWER = {"role": "assistant", "content": "\U000f0002"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "c00000000", "type": "function", "function": {"name": "f", "arguments": {"a": "\U000f0002"}}}
    ],
}
TOOL_RESULT = {"role": "tool", "content": "\U000f0003", "tool_call_id": "c00000000", "name": "f"}

NO_END = (
    "the chat template writes no stop token after an answer, and the tokenizer has no eos_token to use instead: set "
    "one in tokenizer_config.json"
)


@dataclass(frozen=True, slots=True)
class AnswerPrompt:
    """The inference prompt of one answer, and the answer that the model has to generate, with its stop token.

    Attributes:
        is_ended: whether the stop token was added here because the template writes none.
        skip: number of characters at the beginning that the template's ``{% generation %}`` blocks leave untrained.
        is_marked: False if these blocks leave out the whole answer.
    """

    prompt: str
    answer: str
    is_ended: bool = False
    skip: int = 0
    is_marked: bool = True

    @property
    def text(self) -> str:
        """Prompt and answer together."""
        return self.prompt + self.answer


class Turns:
    """Finds the prompts and answers of conversations rendered with one template.

    Args:
        template: the template.
        control: matches any control token, which no content spells.
        stops: texts of the stop tokens.
        eos: the stop token to add to an answer that the template leaves unended; '' refuses such answers.

    Attributes:
        ends: texts of the tokens at which an answer may end: ``stops``, and the template's own end-of-turn token if
            that is a different one.
        has_marks: whether the template's ``{% generation %}`` blocks mark a plain answer.
    """

    def __init__(self, template: ChatTemplate, control: re.Pattern[str] | None, stops: Sequence[str], eos: str = ""):
        self._template, self._control, self._eos = template, control, eos
        self.ends = frozenset(stops) | self._own_ends(frozenset(stops))
        # Longest first: a regular expression takes the first alternative, and one stop token may begin another.
        longest = sorted(self.ends, key=lambda name: (-len(name), name))
        self._stop = re.compile("|".join(map(re.escape, longest))) if longest else None
        self.has_marks = template.marks_generation and self._probe_marks()
        self._trailer = self._probe_trailer()
        self._header, self._fault = self._probe_prompt()

    def turn(self, messages: Sequence[Message], place: int, tools: list[Message] | None = None) -> AnswerPrompt:
        """Return the prompt and the answer of the assistant's turn at ``place``.

        Raises:
            DataError: if the template refuses the turn, or training could not reproduce the inference prompt.
        """
        if self._fault:
            raise DataError(self._fault)
        history = messages[:place]
        # Exactly what a server would do: the history with a generation prompt. The answer is what the template adds to
        # it.
        prompt = self._template.render(history, True, tools)
        whole = self._template.render(messages[: place + 1], False, tools).removesuffix(self._trailer)
        marked = self._template.marked() if self.has_marks else []
        if whole.startswith(prompt):
            answer = whole[len(prompt) :]
            self._check_header(prompt, answer)
        else:
            answer = self._rewritten(prompt, whole, history, messages[place], tools)
        marks = self._marks_of(answer, whole, marked)
        if ended := self._ended(answer, whole, messages, place, tools):
            return AnswerPrompt(prompt, ended, False, *marks)
        if not self._eos:
            raise DataError(NO_END)
        return AnswerPrompt(prompt, end_of_text(answer, messages[place]) + self._eos, True, *marks)

    def _marks_of(self, answer: str, whole: str, marked: Sequence[CharacterSpan]) -> tuple[int, bool]:
        """Return how many characters of an answer's beginning the blocks leave out, and whether they mark any of it.

        Blocks can only narrow the trained span: many templates mark the prompt's header, or leave out the stop token.
        """
        if not self.has_marks or not whole.endswith(answer):
            return 0, True
        at = len(whole) - len(answer)
        begins = [start - at for start, end in marked if end > at and end > start]
        if not begins:
            return 0, False
        # Blocks may begin before the answer, in its header: then nothing of the answer is skipped.
        skip = max(0, min(begins))
        return (skip if answer[:skip].strip() else 0), True

    def _check_header(self, prompt: str, answer: str) -> None:
        """Refuse an answer that begins with a header which the generation prompt gives elsewhere but not here."""
        header = self._header.removesuffix(opened_reasoning(self._header)).strip()
        if header and answer.lstrip().startswith(header) and not prompt.rstrip().endswith(header):
            raise DataError(
                f"the chat template writes {header!r} before this answer but not in the generation prompt, so "
                "inference would not have it"
            )

    def _rewritten(
        self, prompt: str, whole: str, history: Sequence[Message], message: Message, tools: list[Message] | None
    ) -> str:
        """Return the answer if its rendered turn does not begin with the inference prompt."""
        silent = self._template.render(history, False, tools)
        header = prompt[len(silent) :] if prompt.startswith(silent) else self._header
        mark = opened_reasoning(prompt)
        if self._control is None:
            raise DataError(
                "the chat template rewrites earlier turns, so the answer cannot be separated from the prompt"
            )
        # From the most to the least specific: the prompt without its open reasoning mark, its header, the turn before.
        plain = prompt.removesuffix(mark)
        found = whole.removeprefix(plain) if whole.startswith(plain) else None
        if found is None:
            found = after_header(whole, plain, header.removesuffix(mark), self._control)
        if found is None:
            found = after_history(whole, plain, silent, history, message, self._control)
        if found is None:
            raise DataError(
                f"the inference prompt ends with {(header or prompt)[-60:]!r}, which the chat template does not"
                " write before this answer: the prompts of training and inference would differ"
            )
        if not mark:
            return found
        marked = bool(split_content(message.get("content"))[0])
        return behind(mark, found.lstrip("\n") if marked else found, reasoning_of(message))

    def _ended(
        self, answer: str, whole: str, messages: Sequence[Message], place: int, tools: list[Message] | None
    ) -> str:
        """Return the answer up to and including its stop token, '' if the template writes none."""
        if self._stop and (found := self._stop.search(answer)):
            # Control tokens after the stop token belong to the turn's end; text there would never be generated.
            rest = self._control.sub("", answer[found.end() :]) if self._control else answer[found.end() :]
            if rest.strip():
                raise DataError(
                    f"generation stops at {found.group()!r}, after which the chat template still writes"
                    f" {rest.strip()[:40]!r} of the same answer"
                )
            return answer[: found.end()]
        # Some templates write the end of a turn only when another turn follows.
        following = self._following(whole, messages, place, tools)
        if self._stop and (found := self._stop.match(following.lstrip())):
            gap = following[: len(following) - len(following.lstrip())]
            return answer + gap + found.group()
        if wrong := wrong_end(answer, messages[place]):
            raise DataError(
                f"the chat template ends an answer with {wrong!r}, at which generation does not stop: make it a "
                "special token of the tokenizer and add it to eos_token_id in the model's generation_config.json, or "
                "choose another chat template (tokens.chat_template)"
            )
        return ""

    def _following(self, whole: str, messages: Sequence[Message], place: int, tools: list[Message] | None) -> str:
        """Return what the template writes after the answer if the conversation continues."""
        calls = messages[place].get("tool_calls")
        probe, more = (CALL, TOOL_RESULT) if calls else (ANSWER, QUESTION)
        following = messages[place + 1] if place + 1 < len(messages) else more
        for before, text, after in (
            (messages[: place + 1], whole, following),
            # If continuing changes earlier text (reasoning is stripped), a plain conversation shows it instead.
            ([QUESTION, probe], self._tried([QUESTION, probe], False), more),
        ):
            longer = self._tried([*before, after], False, tools if text is whole else None)
            if text is not None and longer is not None and longer.startswith(text) and longer != text:
                return longer[len(text) :]
        return ""

    def _probe_prompt(self) -> tuple[str, str]:
        """Return the generation prompt after a question, and a message if it cannot be used."""
        prompt, silent, whole = (
            self._tried(*given) for given in (([QUESTION], True), ([QUESTION], False), ([QUESTION, ANSWER], False))
        )
        if prompt is None or silent is None or whole is None:
            return "", ""
        header = prompt[len(silent) :] if prompt.startswith(silent) else ""
        before = whole.partition(ANSWER["content"])[0]
        if prompt != silent or self._trailer or not before.startswith(prompt) or opened_reasoning(before):
            return header, ""
        if own := before[len(prompt) :].strip():
            return header, (
                f"the chat template writes {own[-60:]!r} before an answer but has no generation prompt, so inference "
                "would not have it: write it at the end, inside {% if add_generation_prompt %} (tokens.chat_template)"
            )
        return header, ""

    def _probe_marks(self) -> bool:
        """Return whether the template's ``{% generation %}`` blocks mark a plain answer."""
        return self._tried([QUESTION, ANSWER], False) is not None and bool(self._template.marked())

    def _probe_trailer(self) -> str:
        """Return the header of the next answer if the template writes it even without add_generation_prompt."""
        prompt, whole = self._tried([QUESTION], True), self._tried([QUESTION, ANSWER], False)
        closing = (whole or "").rpartition(ANSWER["content"])[2]
        found = self._stop.search(closing) if self._stop else None
        trailer = closing[found.end() :] if found else ""
        return trailer if trailer.strip() and prompt is not None and prompt.endswith(trailer) else ""

    def _own_ends(self, stops: frozenset[str]) -> frozenset[str]:
        """Return the control tokens that end the template's turns if none of ``stops`` does."""
        if self._control is None:
            return frozenset()
        found: set[str] = set()
        for answer in (ANSWER, CALL):
            messages: list[Message] = [QUESTION, answer]
            whole = self._tried(messages, False)
            _, written, closing = (whole or "").rpartition(ANSWER["content"])
            tokens = [found.group() for found in self._control.finditer(closing)]
            if not written or not tokens or any(token in stops or token in found for token in tokens):
                continue
            if closing.rstrip().endswith(tokens[-1]):
                found.add(tokens[-1])
        return frozenset(found)

    def _tried(self, messages: Sequence[Message], prompt: bool, tools: list[Message] | None = None) -> str | None:
        try:
            return self._template.render(messages, prompt, tools)
        except DataError:
            return None
