"""The work of one process: a chunk of records becomes rows of token ids and loss masks, audited and ready to write."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from snaketune.core.training_methods import PREFERENCE, method_of
from snaketune.data.templates.built_in_templates import choose_template
from snaketune.data.templates.jinja_sandbox import time_limit
from snaketune.data.templates.rendering import NO_PREFERENCE, NO_TRAINED_TOKEN, Renderer, Unusable
from snaketune.data.templates.templates import DEFAULT_DATE, ChatTemplate
from snaketune.data.tokens.chunks import Chunk
from snaketune.data.tokens.encoding import EncodedRecord, Encoder, TokensAndMask
from snaketune.data.tokens.mask_audit import Audit, AuditedRows, TokenLimits, audit
from snaketune.data.tokens.token_store import SCORED_SCHEMA, TOKENS_SCHEMA, mask_array
from snaketune.data.tokens.tokenizer import TextTokenizer, own_chat_template, text_tokenizer
from snaketune.data.tokens.tokenizer_engine import few_threads, load_engine
from snaketune.facts.model_facts import VOCABULARY
from snaketune.settings.data_slices import TokenizingSlice

EXAMPLES_SHOWN = 3
RECORDS_WITH_EXAMPLES = 8000
LONGEST_EXAMPLE_TOKENS = 400
# Rendering a chunk takes about a tenth of a second.
CHUNK_SECONDS = 300
NOTHING_TRAINED = (NO_TRAINED_TOKEN, "no token of an answer is left to train on")
JOINED = (
    "answer_joins_prompt",
    "the answer's first characters share a token with the end of the prompt, so they cannot be separated",
)
SAME_ANSWERS = (NO_PREFERENCE, "the chosen and the rejected answer are the same tokens: neither is preferred")


# The documents of a record with their rows: a single one, or the chosen and the rejected one of a pair.
Unit = Sequence[tuple[EncodedRecord, TokensAndMask]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a process needs to tokenise: small enough to be sent to each of them.

    Attributes:
        folder: the model folder.
        template: source of the chat template, or None.
        vocab_size: rows of the model's embedding, or None if its configuration gives no size.
        engine, method: the choices of the equality gates.
        learns_by: ``train.method``; preference methods keep the documents of a record together.
        reasoning: handling of reasoning: ``auto``, ``train`` or ``drop``.
        date: the date that ``strftime_now`` writes, as YYYY-MM-DD.
        sources: the source files of the records, for messages.
    """

    folder: str
    template: str | None
    assistant_only: bool
    vocab_size: int | None = None
    engine: str = "tokenizers"
    method: str = "segments"
    learns_by: str = "sft"
    reasoning: str = "auto"
    date: str = DEFAULT_DATE
    sources: tuple[str, ...] = ()

    @property
    def pairs(self) -> bool:
        """Whether records hold a chosen answer, a rejected one, or both."""
        return self.learns_by in PREFERENCE

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of its rows."""
        return SCORED_SCHEMA if self.learns_by == "reward" else TOKENS_SCHEMA

    @classmethod
    def of_slice(cls, cfg: TokenizingSlice, manifest: str | Path, sources: Iterable[str] = ()) -> "Recipe":
        """Return the recipe of a stage's configuration slice and a model's manifest, before the gates have chosen.

        Raises:
            ConfigError: if the configured template cannot be used.
        """
        folder, settings = Path(manifest).parent / "model", cfg["tokens"]
        template = choose_template(settings["chat_template"], own_chat_template(folder))
        size = VOCABULARY.read_manifest(manifest)["vocab_size"]
        more: dict[str, Any] = {"reasoning": settings["reasoning"], "date": settings["date"], "sources": tuple(sources)}
        return cls(str(folder), template, settings["assistant_only_loss"], size, learns_by=method_of(cfg), **more)


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """The rows of a chunk, ready to write, and its share of the counts."""

    batch: pa.RecordBatch
    rows: int
    tokens: int
    trainable_tokens: int
    dropped: list[dict[str, Any]]
    audit: Audit
    examples: list[dict[str, Any]]
    counts: Counter[str]


class ChunkTokenizer:
    """Tokenises chunks of the file of one split.

    Args:
        split: name of the split, for the counts and for errors.
        threads: maximum number of native threads of the engine.
    """

    def __init__(self, recipe: Recipe, split: str, threads: int = 1):
        self.tokenizer = text_tokenizer(recipe.folder)
        self.template = _compiled(recipe, self.tokenizer)
        self._split, self._pairs, self._schema = split, recipe.pairs, recipe.schema
        with few_threads(threads):
            engine = load_engine(recipe.engine, self.tokenizer)
            # The first call starts the native threads, so it must happen while the CPU affinity limits them.
            engine.encode(["the first call makes the threads"] * 64, False)
        self.encoder = Encoder(self.tokenizer, engine, recipe.method)
        self.renderer = Renderer(
            self.tokenizer,
            self.template,
            recipe.assistant_only,
            f"{split}.jsonl",
            recipe.learns_by,
            recipe.reasoning,
            recipe.sources,
        )
        size = recipe.vocab_size or self.tokenizer.vocab_size
        self.limits = TokenLimits(size, self.tokenizer.bos_id, *self.renderer.ends())

    def __call__(self, chunk: Chunk) -> ChunkResult:
        """Return the rows of the records of a chunk."""
        dropped: list[dict[str, Any]] = []
        documents = self._documents(chunk, dropped)
        if not self._pairs:
            documents = self.encoder.separate(documents)
        parts = list(zip(documents, self.encoder.encode(documents), strict=True))
        units: Iterable[Unit] = _by_record(parts) if self._pairs else zip(parts, strict=True)
        kept: list[Unit] = []
        for unit in units:
            if wrong := _useless(unit):
                first = unit[0][0]
                dropped.append(self._entry(first.record, first.source, first.line, *wrong))
            else:
                kept.append(unit)
        flat = _flat([part for unit in kept for part in unit])
        return ChunkResult(
            _record_batch(kept, flat, self._schema),
            len(kept),
            len(flat.ids),
            int(flat.mask.sum()),
            # Records are dropped while rendering and again while encoding; sorted, the list follows the file.
            sorted(dropped, key=lambda entry: entry["record"]),
            audit(flat, self.limits, self._place_of([part for unit in kept for part in unit])),
            [_example(unit, self.tokenizer) for unit in kept[: self._examples(chunk)]],
            self._counts([unit[0][0] for unit in kept]),
        )

    def _place_of(self, parts: Sequence[tuple[EncodedRecord, TokensAndMask]]) -> Callable[[int], str]:
        """Return a function that gives the place of a row's record, for a message."""
        return lambda row: self.name_of(parts[row][0])

    def name_of(self, document: EncodedRecord) -> str:
        """Return the user's file and line of a document's record, for a message."""
        return self.renderer.place(document.record, {"source": document.source, "line": document.line})

    def _counts(self, documents: Sequence[EncodedRecord]) -> Counter[str]:
        """Count records that became several examples, and answers that lost their reasoning."""
        examples = Counter(document.record for document in documents)
        several = [count for count in examples.values() if count > 1]
        lost = sum(document.lost for document in documents)
        counts = Counter(note for document in documents for note in document.notes)
        counts["records_in_several_examples"] = len(several)
        counts["examples_of_these"] = sum(several)
        counts["answers_without_their_reasoning"] = lost
        return counts

    def _documents(self, chunk: Chunk, dropped: list[dict[str, Any]]) -> list[EncodedRecord]:
        """Return the documents of the records; the two of a pair follow each other."""
        documents: list[EncodedRecord] = []
        record: dict[str, Any] = {}
        number = chunk.first
        with time_limit(CHUNK_SECONDS, lambda: self._too_slow(number, record)):
            for number, line in enumerate(chunk.read(), chunk.first):
                record = orjson.loads(line)
                try:
                    documents += self.renderer.render(number, record)
                except Unusable as wrong:
                    dropped.append(self._entry(number, record["source"], record["line"], wrong.reason, wrong.detail))
        return documents

    def _too_slow(self, number: int, record: dict[str, Any]) -> str:
        return (
            f"{self.renderer.place(number, record)}: rendering did not finish within {CHUNK_SECONDS} s:"
            " correct the chat template (tokens.chat_template)."
        )

    def _entry(self, record: int, source: int, line: int, reason: str, detail: str) -> dict[str, Any]:
        place = {"split": self._split, "record": record, "source": source, "line": line}
        return {**place, "reason": reason, "detail": detail}

    def _examples(self, chunk: Chunk) -> int:
        return EXAMPLES_SHOWN if chunk.first < RECORDS_WITH_EXAMPLES else 0


def _compiled(recipe: Recipe, tokenizer: TextTokenizer) -> ChatTemplate | None:
    if not recipe.template:
        return None
    return ChatTemplate(recipe.template, tokenizer.special_tokens, recipe.date)


def _by_record(parts: Sequence[tuple[EncodedRecord, TokensAndMask]]) -> Iterable[Unit]:
    """Return the documents grouped by record."""
    return [tuple(own) for _, own in groupby(parts, lambda part: part[0].record)]


def _useless(unit: Unit) -> tuple[str, str] | None:
    """Return the reason and detail if the documents of a record cannot be trained on."""
    for document, (_, mask) in unit:
        # For a few hundred bytes this is faster than any().
        if 1 not in mask.tobytes():
            return JOINED if document.answers else NOTHING_TRAINED
    # Equal answers have a margin of 0 whatever the model: with DPO the pair has no gradient and counts as wrong.
    if len(unit) == 2 and np.array_equal(unit[0][1][0], unit[1][1][0]):
        return SAME_ANSWERS
    return None


def _flat(rows: Sequence[tuple[EncodedRecord, TokensAndMask]]) -> AuditedRows:
    offsets = np.cumsum([0, *(len(ids) for _, (ids, _) in rows)], dtype=np.int64)
    ids = np.concatenate([np.empty(0, np.int32), *(ids for _, (ids, _) in rows)])
    mask = np.concatenate([np.empty(0, np.int8), *(mask for _, (_, mask) in rows)])
    answers = np.asarray([document.answers for document, _ in rows], np.int64)
    return AuditedRows(ids, mask, offsets, answers)


def _record_batch(units: Sequence[Unit], flat: AuditedRows, schema: pa.Schema) -> pa.RecordBatch:
    ends = np.cumsum([0, *map(len, units)])
    starts, trained = flat.offsets[ends[:-1]], np.flatnonzero(flat.mask)
    first = [unit[0][0] for unit in units]
    offsets = pa.array(flat.offsets[ends], pa.int32())
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(flat.ids)),
        pa.ListArray.from_arrays(offsets, mask_array(flat.mask)),
        pa.array(np.diff(flat.offsets[ends]), pa.int32()),
        pa.array(
            [unit[0][0].size if len(unit) == 1 else sum(part.size for part, _ in unit) for unit in units], pa.int32()
        ),
        pa.array([document.record for document in first], pa.int64()),
        pa.array([document.source for document in first], pa.int32()),
        pa.array([_second(unit) for unit in units], pa.int32()),
        pa.array([document.plain for document in first], pa.bool_()),
        # The first loss-bearing token of each row; every row has one, so the search never reaches the next row.
        pa.array(trained[np.searchsorted(trained, starts)] - starts, pa.int32()),
    ]
    if "margin" in schema.names:
        columns.append(pa.array([document.margin for document in first], pa.float64()))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _second(unit: Unit) -> int:
    """Return where the second document of a pair begins; 0 for a single document, -1 for a single rejected answer."""
    if len(unit) > 1:
        return len(unit[0][1][0])
    return -1 if unit[0][0].rejected else 0


def _example(unit: Unit, tokenizer: TextTokenizer) -> dict[str, Any]:
    """Return the document, or both answers of a pair, as segments of text, at most 400 tokens of each."""
    names = ("rejected",) if unit[0][0].rejected else ("tokens", "rejected")
    shown = {name: _stretches(row, tokenizer) for name, (_, row) in zip(names, unit, strict=False)}
    return {"record": unit[0][0].record, **shown}


def _stretches(row: TokensAndMask, tokenizer: TextTokenizer) -> list[dict[str, Any]]:
    """Return the beginning of a document as segments of text, each either trained or masked."""
    ids, mask = (part[:LONGEST_EXAMPLE_TOKENS] for part in row)
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(ids)]
    return [
        {
            "text": tokenizer.decode(ids[start:end].tolist()),
            "trained": bool(mask[start]),
            "tokens": end - start,
        }
        for start, end in pairwise(edges)
    ]
