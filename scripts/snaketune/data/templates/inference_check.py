"""The check against transformers: what a run trains stands behind what ``apply_chat_template`` gives at inference.

It shares no code with what makes masks: prompts are rendered and encoded by transformers, and only token ids and masks
of finished rows are looked at.
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
from snaketune.data.tokens.encoding import Document, Row

# Conversations of a run's sample that are looked at; each costs transformers about a millisecond for each answer.
CHECKED_CONVERSATIONS = 400


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of the sample with the finished rows that it gave.

    Attributes:
        messages: as the template got them.
        tools: what is offered.
        rows: each with its document.
    """

    messages: list[Message]
    tools: list[Message] | None
    rows: list[tuple[Document, Row]]


class Reference:
    """Renders and encodes with transformers.

    Args:
        folder: the model folder.
        template: the template in force; its source, its way to give contents and the date are taken over.
        day: what ``strftime_now`` writes.

    Raises:
        ImportError: if transformers is not installed.
    """

    def __init__(self, folder: str | Path, template: ChatTemplate, day: str):
        from transformers import PreTrainedTokenizerFast

        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        self._template, self._day = template, day

    @property
    def marks(self) -> bool:
        """Whether the template marks what it takes for the assistant's part."""
        return self._template.marks_generation

    def _given(self, messages: Sequence[Message]) -> list[Message]:
        return with_parts(messages) if self._template.in_parts else list(messages)

    def marked(self, messages: Sequence[Message], tools: list[Message] | None) -> list[int]:
        """Return the mask that transformers makes of the template's ``{% generation %}`` blocks."""
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
        """Return the ids of a conversation, with the generation prompt or without, as a server computes them."""
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
    """Let the ``strftime_now`` of transformers write ``day`` inside the block."""
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
    conversations: Sequence[Conversation], reference: Reference, place: Callable[[Document], str]
) -> dict[str, Any]:
    """Check that every trained answer stands behind the prompt of inference, and that rows are transformers' rendering.

    Args:
        place: names the record of a document, for the sentence of an error.

    Returns:
        The facts: conversations and answers compared, how many rows were compared as a whole, in how many of these
        the template's ``{% generation %}`` blocks mark other tokens, and tokens that are marked and not trained
        (``marked_beyond``), or trained and not marked.

    Raises:
        DataError: naming the first record where it does not hold.
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
    conversation: Conversation, reference: Reference, place: Callable[[Document], str], counts: Counter[str]
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
            if reference.marks:  # which may leave out the first words of an answer
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


def _unmarked(conversation: Conversation, reference: Reference) -> int:
    """Return how many answers of a conversation the template's ``{% generation %}`` blocks leave out."""
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
    conversation: Conversation, reference: Reference, place: Callable[[Document], str], counts: Counter[str]
) -> None:
    """Compare rows with the whole conversation as transformers renders and encodes it, where it is the same text."""
    theirs = reference.ids(conversation.messages, conversation.tools, False)
    spelled = reference.text(theirs)
    for document, (ids, mask) in conversation.rows:
        if document.text != spelled and reference.text(ids.tolist()) != spelled:
            continue  # an answer that has an example of its own; its prompt was compared
        counts["rows"] += 1
        if ids.tolist() != theirs and not _cut_at_answer(ids, mask, theirs):
            raise DataError(
                f"{place(document)}: its tokens differ from those of transformers for the same conversation:"
                " choose another chat template (tokens.chat_template), or prepare the model again."
            )
        if reference.marks and ids.tolist() == theirs and all(map(_trained, conversation.messages)):
            # For the account alone: masks follow from the prompts and ends of inference, not from the marks.
            theirs_marked = np.asarray(reference.marked(conversation.messages, conversation.tools), np.int8)
            counts["marked_otherwise"] += int((theirs_marked != mask).any())
            counts["marked_beyond"] += int((theirs_marked > mask).sum())
            counts["unmarked_trained"] += int((theirs_marked < mask).sum())


def _cut_at_answer(ids: np.ndarray, mask: np.ndarray, theirs: Sequence[int]) -> bool:
    """Tell whether ids differ from ``theirs`` around the beginning of one answer only, where prompts are cut off."""
    starts = np.flatnonzero(np.diff(mask, prepend=0) == 1).tolist()
    if len(starts) != 1:
        return False
    same = next((n for n, (a, b) in enumerate(zip(ids.tolist(), theirs, strict=False)) if a != b), len(ids))
    return same <= starts[0]
