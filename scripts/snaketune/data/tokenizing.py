"""From canonical records to token ids with a loss mask: template once, tokens once, every loss counted."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from snaketune.common.errors import ConfigError, DataError
from snaketune.data.templates import BUILT_IN, ChatTemplate, Span
from snaketune.data.token_store import SCHEMA, writing_tokens
from snaketune.data.tokenizer import TextTokenizer

BATCH_RECORDS = 1000
EXAMPLES = 3
LONGEST_EXAMPLE_TOKENS = 400


@dataclass(frozen=True, slots=True)
class Document:
    """A rendered record: its text, the character spans that are trained and their size in UTF-8 bytes."""

    record: int
    source: int
    text: str
    spans: list[Span]
    size: int
    plain: bool


@dataclass(slots=True)
class SplitAccount:
    """What became of the records of one split."""

    records: int = 0
    tokens: int = 0
    trainable_tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first_refusal: str = ""

    def facts(self) -> dict[str, Any]:
        """Return the account as facts for the manifest."""
        return {
            "records": self.records,
            "tokens": self.tokens,
            "trainable_tokens": self.trainable_tokens,
            "dropped": dict(sorted(self.dropped.items())),
        }


def choose_template(setting: str | None, own: str | None) -> str | None:
    """Return the source of the chat template in force.

    Args:
        setting: ``tokens.chat_template``: null, a built-in name, a path or a template.
        own: the template that comes with the tokenizer.

    Raises:
        ConfigError: if the setting is none of these.
    """
    if setting is None:
        return own
    if setting in BUILT_IN:
        return BUILT_IN[setting]
    if "{{" in setting or "{%" in setting:
        return setting
    path = Path(setting)
    if path.suffix == ".jinja" and path.is_file():
        return path.read_text(encoding="utf-8")
    raise ConfigError(
        f"tokens.chat_template: {setting!r} is neither a .jinja file nor one of {', '.join(sorted(BUILT_IN))}:"
        " check the spelling or the path."
    )


def tokenize_split(
    records: Iterable[bytes],
    tokenizer: TextTokenizer,
    template: ChatTemplate | None,
    assistant_only: bool,
    output: str | Path,
) -> tuple[SplitAccount, list[dict[str, Any]]]:
    """Tokenise the records of one split into the Arrow folder ``output``, in bounded memory.

    Returns:
        The account of the split and up to three examples with trained and masked stretches of text.
    """
    account = SplitAccount()
    examples: list[dict[str, Any]] = []
    with writing_tokens(output) as writer:
        for batch in _batches(records, BATCH_RECORDS):
            documents = list(_render(batch, account, tokenizer, template, assistant_only))
            rows = _encode(documents, account, tokenizer)
            writer.write_batch(_record_batch(rows))
            for document, ids, mask in rows[: EXAMPLES - len(examples)]:
                examples.append(_example(document, ids, mask, tokenizer))
    return account, examples


def _batches(lines: Iterable[bytes], size: int) -> Iterator[list[tuple[int, bytes]]]:
    numbered = enumerate(lines)
    while batch := list(islice(numbered, size)):
        yield batch


def _render(batch, account, tokenizer, template, assistant_only) -> Iterator[Document]:
    for number, line in batch:
        record = orjson.loads(line)
        if reason := control_token_in(record, tokenizer):
            account.dropped["control_token_in_content"] += 1
            account.first_refusal = account.first_refusal or reason
            continue
        try:
            yield render(number, record, template, assistant_only)
        except DataError as error:
            account.dropped["refused_by_template"] += 1
            account.first_refusal = account.first_refusal or str(error)


def control_token_in(record: dict[str, Any], tokenizer: TextTokenizer) -> str:
    """Return a sentence when a text of the record spells a control token, which must never become one."""
    texts = [record["text"]] if "text" in record else [message["content"] for message in record["messages"]]
    for text in texts:
        if tokenizer.control_tokens and (found := tokenizer.control_tokens.search(text)):
            return f"the text contains the control token {found.group()!r}"
    return ""


def render(number: int, record: dict[str, Any], template: ChatTemplate | None, assistant_only: bool) -> Document:
    """Return the text of a record and what of it is trained.

    Raises:
        ConfigError: if a conversation needs a template and there is none.
        DataError: if the template refuses the conversation.
    """
    source = record["source"]
    if "text" in record:
        text = record["text"]
        return Document(number, source, text, [(0, len(text))], len(text.encode()), plain=True)
    if template is None:
        raise ConfigError(
            "tokens.chat_template: the model has no chat template and the data are conversations: set it to chatml or"
            " plain, or to the path of a .jinja file."
        )
    text, spans = template.render_with_spans(record["messages"])
    spoken = [m["content"] for m in record["messages"] if m["role"] == "assistant" or not assistant_only]
    size = sum(len(content.encode()) for content in spoken)
    return Document(number, source, text, spans if assistant_only else [(0, len(text))], size, plain=False)


def _encode(documents, account, tokenizer) -> list[tuple[Document, np.ndarray, np.ndarray]]:
    rows = []
    for plain in (False, True):
        chosen = [document for document in documents if document.plain is plain]
        encodings = tokenizer.encode_batch([d.text for d in chosen], add_special_tokens=plain) if chosen else []
        rows += [(d, *_ids_and_mask(d, encoding, tokenizer)) for d, encoding in zip(chosen, encodings, strict=True)]
    rows.sort(key=lambda row: row[0].record)
    kept = [row for row in rows if row[2].any()]
    account.dropped["no_trained_token"] += len(rows) - len(kept)
    account.dropped += Counter()
    account.records += len(kept)
    account.tokens += sum(len(ids) for _, ids, _ in kept)
    account.trainable_tokens += sum(int(mask.sum()) for _, _, mask in kept)
    return kept


def _ids_and_mask(document: Document, encoding: Any, tokenizer: TextTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask; a token is trained when it starts inside a trained span, the first one never is."""
    ids = np.asarray(encoding.ids, np.int32)
    starts = np.asarray([start for start, _ in encoding.offsets], np.int64)
    ends = np.asarray([end for _, end in encoding.offsets], np.int64)
    mask = np.zeros(len(ids), np.int8)
    for start, end in document.spans:
        mask[(starts >= start) & (starts < end) & (ends > starts)] = 1
    if document.plain and tokenizer.eos_id is not None:
        if not len(ids) or ids[-1] != tokenizer.eos_id:
            ids, mask = np.append(ids, np.int32(tokenizer.eos_id)), np.append(mask, np.int8(1))
        mask[-1] = 1
    mask[:1] = 0
    return ids, mask


def _record_batch(rows: list[tuple[Document, np.ndarray, np.ndarray]]) -> pa.RecordBatch:
    offsets = np.cumsum([0, *(len(ids) for _, ids, _ in rows)]).astype(np.int32)
    columns = [
        _lists(offsets, [ids for _, ids, _ in rows], np.int32),
        _lists(offsets, [mask for _, _, mask in rows], np.int8),
        pa.array(np.diff(offsets), pa.int32()),
        pa.array([document.size for document, _, _ in rows], pa.int32()),
        pa.array([document.record for document, _, _ in rows], pa.int64()),
        pa.array([document.source for document, _, _ in rows], pa.int32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _lists(offsets: np.ndarray, parts: list[np.ndarray], dtype: type) -> pa.ListArray:
    values = np.concatenate(parts) if parts else np.empty(0, dtype)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.astype(dtype, copy=False)))


def _example(document: Document, ids: np.ndarray, mask: np.ndarray, tokenizer: TextTokenizer) -> dict[str, Any]:
    """Return the document as stretches of text that are all trained or all masked, at most 400 tokens."""
    ids, mask = ids[:LONGEST_EXAMPLE_TOKENS], mask[:LONGEST_EXAMPLE_TOKENS]
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(ids)]
    stretches = [
        {"text": tokenizer.decode(ids[start:end].tolist()), "trained": bool(mask[start])}
        for start, end in pairwise(edges)
    ]
    return {"record": document.record, "tokens": stretches}
