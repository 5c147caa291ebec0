"""Tokenisation of the splits: canonical records become token ids with a loss mask, and every record is accounted for.

Before the first chunk, a sample decides the backend: the fast engine and the segment method are used only if they give
exactly the tokens of the reference, and examples are compared with the prompts of transformers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import orjson

from snaketune.core.errors import DataError
from snaketune.data.conversations.tool_use import calls_for_template
from snaketune.data.parallel import ordered_results
from snaketune.data.records.canonical_records import conversation_of, lines_in
from snaketune.data.shards import Shard, one_result_each, read_parts, write_part
from snaketune.data.sources.source_names import place_of
from snaketune.data.templates.inference_check import ReferenceTokenizer, SampleConversation, check_inference
from snaketune.data.templates.rendering import Unusable
from snaketune.data.templates.template_trial import Named, try_template
from snaketune.data.templates.templates import Message
from snaketune.data.tokens.chunk_tokenizing import EXAMPLES_SHOWN, ChunkResult, ChunkTokenizer, Recipe
from snaketune.data.tokens.chunks import Chunk, chunks_of, processes_for_chunks
from snaketune.data.tokens.encoding import OFFSETS, SEGMENTS, EncodedRecord, Encoder, TokensAndMask
from snaketune.data.tokens.token_store import writing_tokens
from snaketune.data.tokens.tokenizer import text_tokenizer
from snaketune.data.tokens.tokenizer_engine import choose_engine, few_threads, load_engine
from snaketune.data.tokens.tokenizing_account import SplitAccount
from snaketune.facts.token_facts import (
    PromptComparison,
    TokenizedExample,
    TokenizedSplits,
    TokenizerBackend,
    Tokenizing,
)

COMPARED_RECORDS = 1000

# Records of each split on which a template is tried in a separate process.
TRIED_RECORDS = 50
# The documents of a conversation, its messages and its tools.
Sampled = tuple[list[EncodedRecord], tuple[list[Message], list[Message] | None]]


def select_backend(recipe: Recipe, files: Sequence[str | Path], threads: int) -> tuple[Recipe, TokenizerBackend]:
    """Choose engine and method on a sample of the run's records, and check the sample against transformers.

    Args:
        recipe: how to tokenise, before the choices.
        files: the records of the splits.
        threads: maximum number of native threads of an engine.

    Returns:
        The recipe with both choices, and the facts of the comparisons.

    Raises:
        DataError: if an example differs from what transformers gives at inference.
    """
    _try_template(recipe, files)
    worker = ChunkTokenizer(recipe, "sample", threads)
    sample = _sample(worker, [chunk for file in files for chunk in chunks_of(file)])
    documents = [document for documents, _ in sample for document in documents]
    with few_threads(threads):
        gate = choose_engine(worker.tokenizer, [document.text for document in documents])
        encoder = Encoder(worker.tokenizer, load_engine(gate.engine, worker.tokenizer))
        method, segments = choose_method(documents, encoder)
        facts = TokenizerBackend(engine=gate.engine, engine_gate=gate.facts(), method=method, segments_gate=segments)
        if worker.template and recipe.assistant_only and any(document.answers for document in documents):
            encoder = Encoder(worker.tokenizer, load_engine(gate.engine, worker.tokenizer), method)
            facts["transformers_gate"] = _compared(recipe, worker, sample, encoder)
    return replace(recipe, engine=gate.engine, method=method), facts


def _try_template(recipe: Recipe, files: Sequence[str | Path]) -> None:
    """Render the first records in a process with limits on time and memory."""
    if not recipe.template:
        return
    named: list[Named] = []
    for file in files:
        for number, line in enumerate(islice(lines_in(file), TRIED_RECORDS)):
            record = orjson.loads(line)
            if "messages" in record:
                place = place_of(record, recipe.sources, f"{Path(file).name} line {number + 1}")
                named.append((place, calls_for_template(conversation_of(record)), record.get("tools")))
    try_template(recipe.template, text_tokenizer(recipe.folder).special_tokens, recipe.date, named)


def _compared(recipe: Recipe, worker: ChunkTokenizer, sample: list[Sampled], encoder: Encoder) -> PromptComparison:
    """Check the examples of the sample against transformers and return the facts."""
    assert worker.template is not None
    try:
        reference = ReferenceTokenizer(recipe.folder, worker.template, recipe.date)
    except ImportError:
        return {"conversations": 0, "reason": "transformers is not installed"}
    except Exception as error:  # transformers may reject files that the code here reads; the reason goes into the facts
        return {
            "conversations": 0,
            "reason": f"it cannot read the tokenizer ({(str(error).splitlines() or [''])[0][:200]})",
        }
    conversations = []
    for documents, (messages, tools) in sample:
        parted = documents if recipe.pairs else encoder.separate(documents)
        rows = list(zip(parted, encoder.encode(parted), strict=True))
        if messages and all(mask.any() for _, (_, mask) in rows):
            conversations.append(SampleConversation(messages, tools, rows))
    return {**cast(PromptComparison, check_inference(conversations, reference, worker.name_of)), "reason": ""}


def _sample(worker: ChunkTokenizer, chunks: Sequence[Chunk]) -> list[Sampled]:
    """Return evenly spaced conversations with their documents (for plain text, without messages)."""
    sampled: list[Sampled] = []
    starts = np.cumsum([0, *(chunk.lines for chunk in chunks)])
    # Some sampled records will be unusable, so a quarter more are drawn than needed.
    wanted = min(int(starts[-1]), COMPARED_RECORDS + COMPARED_RECORDS // 4)
    places = np.linspace(0, starts[-1] - 1, wanted).astype(np.int64)
    for number, chunk in enumerate(chunks):
        inside = places[(places >= starts[number]) & (places < starts[number + 1])] - starts[number]
        lines = chunk.read() if len(inside) else []
        for place in inside.tolist():
            record = orjson.loads(lines[place])
            try:
                documents = list(worker.renderer.render(chunk.first + place, record))
            except Unusable:
                continue
            if "text" in record:
                sampled.append((documents, ([], None)))
                continue
            found = worker.renderer.conversations(record)
            parts = [documents] if len(found) == 1 else [[document] for document in documents]
            sampled += [(part, (messages, record.get("tools"))) for part, messages in zip(parts, found, strict=True)]
    return sampled


def tokenize_splits(
    files: dict[str, tuple[str, str]],
    recipe: Recipe,
    dropped: IO[bytes],
    threads: int,
    parts: Sequence[str | Path] = (),
) -> Tokenizing:
    """Tokenise the splits ``{name: (records, output folder)}``, ``train`` among them, and return the facts.

    Args:
        files: the splits.
        recipe: how to tokenise; engine and method are chosen here.
        dropped: receives the records that are left out.
        threads: maximum number of processes.
        parts: results of shards, see :func:`tokenize_shard`.

    Raises:
        ConfigError: if a conversation needs a template and the model has none.
        DataError: if nothing is left to train on, or the mask audit fails.
    """
    recipe, facts = select_backend(recipe, [records for records, _ in files.values()], threads)
    accounts: dict[str, SplitAccount] = {}
    examples: list[TokenizedExample] = []
    done = read_parts(parts) if parts else None
    for split, (records, output) in files.items():
        accounts[split], shown = tokenize_split(split, records, recipe, output, dropped, threads, done)
        examples += cast(list[TokenizedExample], shown) if split == "train" else []
    train, place = accounts["train"], files["train"][0]
    if not train.records:
        first = train.first(recipe.sources, place)
        fix = "." if "tokens.chat_template" in first else ": correct the records, or check tokens.chat_template."
        raise DataError(
            f"the train split: no record can be trained on ({train.reasons or 'no records'}); first {first}{fix}"
        )
    for split, account in accounts.items():
        if account.dropped and not account.records:
            raise DataError(
                f"the {split} split: all {account.dropped.total()} held-out records are left out"
                f" ({account.reasons}); first {account.first(recipe.sources, files[split][0])}: set"
                " split.test_size higher, or to 0 to hold nothing out."
            )
    tokenizer = text_tokenizer(recipe.folder)
    return {
        "vocab_size": tokenizer.vocab_size,
        "pad_id": tokenizer.pad_id,
        "end_tokens": len(tokenizer.stops),
        "date": recipe.date,
        "reasoning": recipe.reasoning,
        **facts,
        "splits": cast(TokenizedSplits, {split: account.facts() for split, account in accounts.items()}),
        "examples": examples,
    }


def tokenize_split(
    split: str,
    records: str | Path,
    recipe: Recipe,
    output: str | Path,
    dropped: IO[bytes],
    threads: int = 1,
    done: Iterator[ChunkResult] | None = None,
) -> tuple[SplitAccount, list[dict[str, Any]]]:
    """Tokenise the records of one split into the Arrow folder ``output``, in bounded memory.

    The bytes of the output do not depend on ``threads``.

    Args:
        split: name of the split.
        records: its canonical records.
        recipe: how to tokenise.
        output: the folder to write.
        dropped: receives one JSON line per record left out: ``split``, ``record`` (line of the split's file, from 0),
            ``source`` and ``line`` (its origin), ``reason`` and ``detail``.
        threads: maximum number of processes.
        done: results of shards for this split's chunks, followed by those of later splits.

    Returns:
        The counts of the split, and up to three examples with trained and masked segments of text.

    Raises:
        ConfigError: if a conversation needs a template and the model has none.
        DataError: if the mask audit fails.
    """
    account = SplitAccount()
    examples: list[dict[str, Any]] = []
    chunks = chunks_of(records)
    with writing_tokens(output, recipe.schema) as writer:
        for result in one_result_each(chunks, done) if done else results_of(recipe, split, chunks, threads):
            writer.write_batch(result.batch)
            account.add(result)
            dropped.writelines(orjson.dumps(entry) + b"\n" for entry in result.dropped)
            examples += result.examples[: EXAMPLES_SHOWN - len(examples)]
        if split == "train":
            tokenizer = text_tokenizer(recipe.folder)
            account.audit.check(f"the {split} split", tokenizer.ids_of(tokenizer.stops))
    return account, examples


def results_of(recipe: Recipe, split: str, chunks: Sequence[Chunk], threads: int) -> Iterator[ChunkResult]:
    """Yield the rows of each chunk of a split."""
    processes = processes_for_chunks(chunks, threads)
    return ordered_results(ChunkTokenizer, (recipe, split, max(1, threads // processes)), chunks, processes)


@dataclass(frozen=True, slots=True)
class EncodingDifference:
    """The numbers of compared documents, of those that differ in ids or only in masks, and the first that differs."""

    compared: int
    ids: int
    masks: int
    first: int | None

    def facts(self) -> dict[str, Any]:
        """Return the comparison as facts for the manifest."""
        return {"compared": self.compared, "ids_differ": self.ids, "masks_differ": self.masks, "first": self.first}


def compare_encodings(
    documents: Sequence[EncodedRecord], ours: Sequence[TokensAndMask], theirs: Sequence[TokensAndMask]
) -> EncodingDifference:
    """Compare two encodings of the same documents, row by row."""
    pairs = list(zip(documents, ours, theirs, strict=True))
    ids = [d.record for d, (left, _), (right, _) in pairs if not np.array_equal(left, right)]
    masks = [d.record for d, left, right in pairs if d.record not in ids and not np.array_equal(left[1], right[1])]
    return EncodingDifference(len(pairs), len(ids), len(masks), min([*ids, *masks], default=None))


def choose_method(documents: Sequence[EncodedRecord], encoder: Encoder) -> tuple[str, dict[str, Any]]:
    """Return ``segments`` if they give the tokens of the whole text for every document, else ``offsets``.

    Returns:
        The method and the facts of the comparison.
    """
    split = [document for document in documents if encoder.is_split(document)]
    difference = compare_encodings(split, encoder.encode(split), encoder.encode_whole(split))
    whole = sum(not document.plain for document in documents) - len(split)
    method = OFFSETS if difference.first is not None else SEGMENTS
    return method, {**difference.facts(), "doubtful_borders": whole}


def tokenize_shard(
    files: Mapping[str, str | Path], recipe: Recipe, shard: Shard, part: str | Path, threads: int = 1
) -> None:
    """Tokenise the shard's chunks of the splits ``{name: records}`` and write the results to the file ``part``.

    Raises:
        ConfigError: if a conversation needs a template and there is none.
    """
    recipe, _ = select_backend(recipe, list(files.values()), threads)
    write_part(part, chain.from_iterable(_results_of_shard(files, recipe, shard, threads)))


def _results_of_shard(
    files: Mapping[str, str | Path], recipe: Recipe, shard: Shard, threads: int
) -> Iterator[Iterator[ChunkResult]]:
    sizes = [Path(path).stat().st_size for path in files.values()]
    for (split, path), before in zip(files.items(), accumulate([0, *sizes]), strict=False):
        chunks = [chunk for chunk in chunks_of(path) if shard.holds(before + chunk.start, sum(sizes))]
        if chunks:
            yield results_of(recipe, split, chunks, threads)
