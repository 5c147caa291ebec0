"""Tokeniser engines: fastokens if it proves equal to ``tokenizers`` for this run, otherwise ``tokenizers``.

fastokens was measured at 40 to 60 times the throughput, but it is young and does not support every tokenizer. Each run
therefore compares both on its own texts and on fuzz strings; a single difference rules fastokens out.
"""

import functools
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from snaketune.data.tokens.tokenizer import TextTokenizer
from snaketune.facts.token_facts import EngineComparison

FUZZ_STRINGS = 2000
GATE_BATCH = 500
# Characters on which implementations tend to differ: controls, accents, right-to-left, Indic, Hangul, CJK and its
# compatibility forms, joiners, symbols, emoji, variation selectors.
RANGES = (
    (0x00, 0x1F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0xDFF), (0xE00, 0xE7F),
    (0x1100, 0x11FF), (0x2000, 0x206F), (0x2100, 0x27FF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0100, 0xE01EF),
)  # fmt: skip
PIECES = ("'S", "'ll", "\r\n", "   ", "\n\n\n", "\t\t", "\u00a0", "\u200d", "ﬁ", "Å", "e\u0301", "0123456789", "\u2028")

Flat = tuple[np.ndarray, np.ndarray]


class EncodingEngine(Protocol):
    """Token ids of many texts at once."""

    name: str

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> Flat:
        """Return the ids of all texts (int32, concatenated) and where each text starts (int64, shape [texts + 1])."""
        ...


class TokenizersEngine:
    """The reference: Hugging Face ``tokenizers``."""

    name = "tokenizers"

    def __init__(self, tokenizer: TextTokenizer):
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> Flat:
        """See :class:`EncodingEngine`."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens, offsets=False)
        rows = [encoding.ids for encoding in encodings]
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        return np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1])), offsets


class FastEngine:
    """The optional ``fastokens`` package, loaded from the same ``tokenizer.json``.

    Raises:
        ImportError: if it is not installed.
        Exception: anything that it raises for an unsupported tokenizer.
    """

    name = "fastokens"

    def __init__(self, tokenizer: TextTokenizer):
        import fastokens

        self._native = fastokens.Tokenizer.from_file(str(tokenizer.path))
        self._native.no_truncation()
        self._native.no_padding()

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> Flat:
        """See :class:`EncodingEngine`."""
        ids, offsets = self._native.encode_batch_flat(list(texts), add_special_tokens=add_special_tokens)
        return np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.uint64).astype(np.int64)


ENGINES = {engine.name: engine for engine in (FastEngine, TokenizersEngine)}


@functools.lru_cache(maxsize=2)
def load_engine(name: str, tokenizer: TextTokenizer) -> EncodingEngine:
    """Return the engine called ``name``, created once per tokenizer."""
    return ENGINES[name](tokenizer)


@dataclass(frozen=True, slots=True)
class EngineGate:
    """The engine of a run and the result of the comparison; ``reason`` is empty if fastokens passed."""

    engine: str
    sample_texts: int
    fuzz_texts: int
    differ: int
    reason: str

    def facts(self) -> EngineComparison:
        """Return the comparison as facts for the manifest."""
        return {
            "sample_texts": self.sample_texts,
            "fuzz_texts": self.fuzz_texts,
            "differ": self.differ,
            "reason": self.reason,
        }


def choose_engine(tokenizer: TextTokenizer, sample: Sequence[str]) -> EngineGate:
    """Compare fastokens with ``tokenizers`` on ``sample`` and on fuzz strings, and choose an engine.

    Args:
        tokenizer: the tokenizer of the run.
        sample: rendered texts of this run.
    """
    fuzz = fuzz_strings(tokenizer)
    try:
        fast = load_engine(FastEngine.name, tokenizer)
        differ, reason = _compare(fast, TokenizersEngine(tokenizer), [*sample, *fuzz])
    except ImportError:
        return EngineGate(TokenizersEngine.name, 0, 0, 0, "fastokens is not installed")
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of native code is not an Exception
        return EngineGate(TokenizersEngine.name, 0, 0, 0, f"fastokens: {str(error).splitlines()[0][:200]}")
    engine = TokenizersEngine.name if differ else FastEngine.name
    return EngineGate(engine, len(sample), len(fuzz), differ, reason)


def _compare(fast: EncodingEngine, reference: EncodingEngine, texts: Sequence[str]) -> tuple[int, str]:
    differ, first = 0, ""
    for start in range(0, len(texts), GATE_BATCH):
        part = texts[start : start + GATE_BATCH]
        for special in (False, True):
            ours, theirs = fast.encode(part, special), reference.encode(part, special)
            if all(map(np.array_equal, ours, theirs)):
                continue
            wrong = [n for n in range(len(part)) if not np.array_equal(_row(ours, n), _row(theirs, n))]
            differ += len(wrong)
            first = first or f"fastokens differs from tokenizers, first on {part[wrong[0]][:60]!r}"
    return differ, first


def _row(flat: Flat, number: int) -> np.ndarray:
    ids, offsets = flat
    return ids[offsets[number] : offsets[number + 1]]


def fuzz_strings(tokenizer: TextTokenizer, count: int = FUZZ_STRINGS) -> list[str]:
    """Return ``count`` fixed strings of characters that are hard to tokenise, mixed with added tokens."""
    generator = random.Random(5)
    names = sorted(token.content for token in tokenizer.added_tokens.values())[:200]
    return [_fuzz_string(generator, (*PIECES, *names)) for _ in range(count)]


def _fuzz_string(generator: random.Random, pieces: Sequence[str]) -> str:
    parts = []
    for _ in range(generator.randint(1, 60)):
        low, high = generator.choice(RANGES) if generator.random() < 0.5 else (0x20, 0x7E)
        parts.append(chr(generator.randint(low, high)))
        if generator.random() < 0.08:
            parts.append(generator.choice(pieces))
    return "".join(parts)


@contextmanager
def few_threads(threads: int) -> Iterator[None]:
    """Limit the native threads of an engine that is loaded and first called inside this block to ``threads``.

    Both engines start their threads at the first call, one for each CPU available to the process, and fastokens
    ignores environment variables. The CPU affinity is therefore restricted inside the block and restored afterwards.
    On systems without CPU affinity (macOS) nothing happens.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(allowed) <= threads:
        yield
        return
    os.sched_setaffinity(0, sorted(allowed)[:threads])
    try:
        yield
    finally:
        # Threads inherit the affinity of their creator, so each one has to be released.
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), allowed)
