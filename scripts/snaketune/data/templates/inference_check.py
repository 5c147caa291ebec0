"""The check against transformers: every trained answer follows exactly what ``apply_chat_template`` gives at inference.

It shares no code with the modules that make masks: transformers renders and encodes the prompts, and only token ids and
masks of finished rows are compared. A fault of those modules therefore cannot hide itself.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from snaketune.core.errors import DataError
from snaketune.data.templates.templates import ChatTemplate, Message, with_parts
from snaketune.data.tokens.encoding import EncodedRecord, TokensAndMask

# Conversations of a run's sample that are checked; transformers needs about a millisecond per answer.
CHECKED_CONVERSATIONS = 400


@dataclass(frozen=True, slots=True)
class SampleConversation:
    """A conversation of the sample with its finished rows.

    Attributes:
        messages: the messages as the template received them.
        tools: the tools on offer.
        rows: each row with its document.
    """

    messages: list[Message]
    tools: list[Message] | None
    rows: list[tuple[EncodedRecord, TokensAndMask]]


class ReferenceTokenizer:
    """Renders and encodes with transformers.

    Args:
        folder: the model folder.
        template: the template of the run; its source and its form of contents are used.
        day: the date that ``strftime_now`` writes.

    Raises:
        ImportError: if transformers is not installed.
    """

    def __init__(self, folder: str | Path, template: ChatTemplate, day: str):
        from transformers import PreTrainedTokenizerFast

        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        self._template, self._day = template, day

    @property
    def marks(self) -> bool:
        """Whether the template has ``{% generation %}`` blocks."""
        return self._template.marks_generation

    def _given(self, messages: Sequence[Message]) -> list[Message]:
        return with_parts(messages) if self._template.in_parts else list(messages)

    def marked(self, messages: Sequence[Message], tools: list[Message] | None) -> list[int]:
        """Return the mask that transformers derives from the template's ``{% generation %}`` blocks."""
        with _on(self._day):
            found = self._tokenizer.apply_chat_template(
                self._given(messages),
                tools=tools,
                chat_template=self._template.source,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
        result: list[int] = found["assistant_masks"]
        return result

    def ids(self, messages: Sequence[Message], tools: list[Message] | None, prompt: bool) -> list[int]:
        """Return the ids of a conversation, with or without the generation prompt, as a server computes them."""
        with _on(self._day):
            ids: list[int] = self._tokenizer.apply_chat_template(
                self._given(messages),
                tools=tools,
                chat_template=self._template.source,
                add_generation_prompt=prompt,
                tokenize=True,
                return_dict=False,
            )
            return ids

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens spelled out."""
        found: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return found


@contextmanager
def _on(day: str) -> Iterator[None]:
    """Make the ``strftime_now`` of transformers write ``day`` inside the block."""
    # transformers offers no parameter for the date, and templates that write it would differ from the run's.
    from transformers.utils import chat_template_utils

    moment = datetime.combine(date.fromisoformat(day), datetime.min.time())

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return moment

    clock = chat_template_utils.datetime
    chat_template_utils.datetime = Fixed  # type: ignore[misc]
    try:
        yield
    finally:
        chat_template_utils.datetime = clock  # type: ignore[misc]


def check_inference(
    conversations: Sequence[SampleConversation], reference: ReferenceTokenizer, place: Callable[[EncodedRecord], str]
) -> dict[str, Any]:
    """Check that every trained answer follows its inference prompt, and that rows equal transformers' rendering.

    Args:
        conversations: the sample.
        reference: renders and encodes with transformers.
        place: gives the place of a document's record, for error messages.

    Returns:
        The facts: conversations and answers compared; rows compared as a whole, and how many of them the template's
        ``{% generation %}`` blocks mark differently; tokens that are marked but not trained (``marked_beyond``) and
        tokens that are trained but not marked.

    Raises:
        DataError: for the first record that fails the check.
    """
    marks = {"marked_otherwise": 0, "marked_beyond": 0, "unmarked_trained": 0}
    counts: Counter[str] = Counter(conversations=0, answers=0, rows=0, **marks)
    for conversation in conversations[:: max(1, -(-len(conversations) // CHECKED_CONVERSATIONS))]:
        counts["conversations"] += 1
        try:
            _check_prompts(conversation, reference, place, counts)
            _check_rendering(conversation, reference, place, counts)
        except DataError:
            raise
        except Exception as error:  # a template is foreign code, and transformers passes on whatever it raises
            raise DataError(
                f"{place(conversation.rows[0][0])}: transformers cannot render this conversation "
                f"({type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}), so inference could not "
                "either: choose another chat template (tokens.chat_template)."
            ) from None
    return dict(counts)


def _check_prompts(
    conversation: SampleConversation,
    reference: ReferenceTokenizer,
    place: Callable[[EncodedRecord], str],
    counts: Counter[str],
) -> None:
    messages = conversation.messages
    wanted = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    prompts = [
        reference.ids(messages[:index], conversation.tools, True) for index in wanted if _trained(messages[index])
    ]
    for document, (ids, mask) in conversation.rows:
        starts = np.flatnonzero(np.diff(mask, prepend=0) == 1).tolist()
        for start in starts:
            before = ids[:start].tolist()
            if reference.marks:  # generation blocks may leave out the first words of an answer
                before = max((one for one in prompts if before[: len(one)] == one), key=len, default=before)
            if before not in prompts:
                raise DataError(
                    f"{place(document)}: training starts after {reference.text(before)[-60:]!r}, which is not a"
                    " prompt that transformers gives for this conversation at inference: choose another chat template"
                    " (tokens.chat_template)."
                )
            prompts.remove(before)
            counts["answers"] += 1
    if prompts and not (reference.marks and _unmarked(conversation, reference) >= len(prompts)):
        raise DataError(
            f"{place(conversation.rows[0][0])}: {len(prompts)} answers of the conversation are not in the trained "
            "part: choose another chat template (tokens.chat_template)."
        )


def _unmarked(conversation: SampleConversation, reference: ReferenceTokenizer) -> int:
    """Return the number of answers that the template's ``{% generation %}`` blocks leave out entirely."""
    messages, tools, count = conversation.messages, conversation.tools, 0
    ids, marks = reference.ids(messages, tools, False), reference.marked(messages, tools)
    for place, message in enumerate(messages):
        if message["role"] == "assistant" and _trained(message):
            prompt = reference.ids(messages[:place], tools, True)
            whole = reference.ids(messages[: place + 1], tools, False)
            is_kept = ids[: len(whole)] == whole
            own = marks[: len(whole)] if is_kept else reference.marked(messages[: place + 1], tools)
            count += not any(own[len(prompt) :])
    return count


def _trained(message: Message) -> bool:
    return message.get("weight") != 0


def _check_rendering(
    conversation: SampleConversation,
    reference: ReferenceTokenizer,
    place: Callable[[EncodedRecord], str],
    counts: Counter[str],
) -> None:
    """Compare rows with the conversation as transformers renders and encodes it, if both have the same text."""
    theirs = reference.ids(conversation.messages, conversation.tools, False)
    spelled = reference.text(theirs)
    for document, (ids, mask) in conversation.rows:
        if document.text != spelled and reference.text(ids.tolist()) != spelled:
            continue  # an answer that became a separate example; its prompt was compared
        counts["rows"] += 1
        if ids.tolist() != theirs and not _cut_at_answer(ids, mask, theirs):
            raise DataError(
                f"{place(document)}: its tokens differ from those of transformers for the same conversation:"
                " choose another chat template (tokens.chat_template), or prepare the model again."
            )
        if reference.marks and ids.tolist() == theirs and all(map(_trained, conversation.messages)):
            # For the counts only: masks are derived from inference prompts and stop tokens, not from the marks.
            theirs_marked = np.asarray(reference.marked(conversation.messages, conversation.tools), np.int8)
            counts["marked_otherwise"] += int((theirs_marked != mask).any())
            counts["marked_beyond"] += int((theirs_marked > mask).sum())
            counts["unmarked_trained"] += int((theirs_marked < mask).sum())


def _cut_at_answer(ids: np.ndarray, mask: np.ndarray, theirs: Sequence[int]) -> bool:
    """Return whether ids differ from ``theirs`` only where a single answer was encoded separately from its prompt."""
    starts = np.flatnonzero(np.diff(mask, prepend=0) == 1).tolist()
    if len(starts) != 1:
        return False
    same = next((n for n, (a, b) in enumerate(zip(ids.tolist(), theirs, strict=False)) if a != b), len(ids))
    return same <= starts[0]
