"""The equality gate: on a sample of each run, ids and masks are what encoding whole and what transformers give."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from snaketune.data.encoding import OFFSETS, SEGMENTS, Document, Encoder, Row
from snaketune.data.templates import ChatTemplate, Message

SAMPLE_RECORDS = 1000
BATCH = 250

# Messages and tools.
Conversation = tuple[list[Message], list[Message] | None]


@dataclass(frozen=True, slots=True)
class Difference:
    """How many of the compared documents differ in ids, how many in masks alone, and the first that does."""

    compared: int
    ids: int
    masks: int
    first: int | None

    def facts(self) -> dict[str, Any]:
        """Return the comparison as facts for the manifest."""
        return {"compared": self.compared, "ids_differ": self.ids, "masks_differ": self.masks, "first": self.first}


def compare(documents: Sequence[Document], ours: Sequence[Row], theirs: Sequence[Row]) -> Difference:
    """Compare two encodings of the same documents, row by row."""
    pairs = list(zip(documents, ours, theirs, strict=True))
    ids = [d.record for d, (left, _), (right, _) in pairs if not np.array_equal(left, right)]
    masks = [d.record for d, left, right in pairs if d.record not in ids and not np.array_equal(left[1], right[1])]
    return Difference(len(pairs), len(ids), len(masks), min([*ids, *masks], default=None))


def choose_method(documents: Sequence[Document], encoder: Encoder) -> tuple[str, dict[str, Any]]:
    """Return ``segments`` when they give the tokens of the whole text on every document, else ``offsets``.

    Returns:
        The method and the facts of the comparison.
    """
    split = [document for document in documents if encoder.is_split(document)]
    difference = compare(split, encoder.encode(split), encoder.encode_whole(split))
    whole = sum(not document.plain for document in documents) - len(split)
    method = OFFSETS if difference.first is not None else SEGMENTS
    return method, {**difference.facts(), "doubtful_borders": whole}


def compare_with_transformers(
    folder: str | Path,
    template: ChatTemplate,
    documents: Sequence[Document],
    conversations: Sequence[Conversation],
    encoder: Encoder,
    assistant_only: bool,
) -> dict[str, Any]:
    """Compare with ``apply_chat_template`` of transformers and return the facts.

    Masks are compared where the template has ``{% generation %}``. Only the tokenizer part of transformers is
    imported, which takes about a second and loads no torch.

    Args:
        folder: the model folder.
        conversations: the messages of each document and the tools that are offered in it.
    """
    with_masks = template.marks_generation and assistant_only
    try:
        theirs = _apply(_reference(folder), template, conversations, with_masks)
    except ImportError:
        return {"compared": 0, "reason": "transformers is not installed"}
    except Exception as error:  # whatever another library says about files that our own code reads
        return {"compared": 0, "reason": f"transformers cannot do it: {(str(error).splitlines() or [''])[0][:200]}"}
    ours = encoder.encode(documents)
    if not with_masks:
        theirs = [(ids, mask) for (ids, _), (_, mask) in zip(theirs, ours, strict=True)]
    return {**compare(documents, ours, theirs).facts(), "masks_compared": with_masks, "reason": ""}


def _reference(folder: str | Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)


def _apply(reference: Any, template: ChatTemplate, conversations: Sequence[Conversation], masks: bool) -> list[Row]:
    # transformers gives templates a clock; ours have none, so that no date gets into training data.
    source = template.source.replace("strftime_now", "no_clock")
    rows: list[Row] = []
    for tools, batch in _batches(conversations):
        found = reference.apply_chat_template(
            batch,
            tools=tools,
            chat_template=source,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=masks,
        )
        flags = found["assistant_masks"] if masks else found["input_ids"]
        rows += [
            (np.asarray(ids, np.int32), np.asarray([0, *mask[1:]], np.int8 if masks else np.int32))
            for ids, mask in zip(found["input_ids"], flags, strict=True)
        ]
    return rows


def _batches(conversations: Sequence[Conversation]) -> Iterator[tuple[list[Message] | None, list[list[Message]]]]:
    """Yield batches of conversations, in order, with the tools that all of a batch are offered."""
    for tools, group in groupby(conversations, key=itemgetter(1)):
        messages = [messages for messages, _ in group]
        for start in range(0, len(messages), BATCH):
            yield tools, messages[start : start + BATCH]
