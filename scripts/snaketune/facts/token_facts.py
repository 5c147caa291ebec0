"""The manifest of tokenisation: how texts were encoded, what both splits hold, and records as the model sees them."""

from typing import Any, NotRequired, TypedDict

from snaketune.facts.data_facts import FileEntry
from snaketune.facts.fact_files import FactFile


class TokenizedSplit(TypedDict):
    """One tokenised split; ``dropped`` counts by reason."""

    records: int | None
    tokens: int | None
    trainable_tokens: int | None
    dropped: dict[str, int]


class TokenizedSplits(TypedDict):
    """Both of them."""

    train: TokenizedSplit
    eval: TokenizedSplit


class TextPiece(TypedDict):
    """The text of some tokens, and whether they are trained."""

    text: str | None
    trained: bool | None


class TokenizedExample(TypedDict, total=False):
    """A record as the model sees it, by its number; a pair has a rejected answer, too."""

    record: int | None
    tokens: list[TextPiece]
    rejected: list[TextPiece]


class EngineComparison(TypedDict, total=False):
    """Texts compared of the fast engine and the reference; ``reason``: why the reference is used, if it is."""

    sample_texts: int
    fuzz_texts: int
    differ: int
    reason: str


class PromptComparison(TypedDict, total=False):
    """The comparison with transformers' prompts and generation blocks; ``reason``: why there was none."""

    reason: str
    conversations: int
    marked_otherwise: int
    marked_beyond: int
    unmarked_trained: int


class TokenizerBackend(TypedDict):
    """How texts are encoded, and the comparisons that allow it; the last one where a template has been compared."""

    engine: str | None
    method: str | None
    engine_gate: EngineComparison
    segments_gate: dict[str, Any]
    transformers_gate: NotRequired[PromptComparison]


class Tokenizing(TokenizerBackend):
    """The facts of a tokenisation; an example has ``tokens``, and ``rejected`` where it is a pair."""

    vocab_size: int | None
    pad_id: int | None
    end_tokens: int | None
    date: str | None
    reasoning: str | None
    splits: TokenizedSplits
    examples: list[TokenizedExample]


class Tokens(Tokenizing):
    """The manifest of ``tokenize_records``."""

    files: dict[str, FileEntry]


class Encoding(TypedDict):
    """The part of the manifest of ``tokenize_records`` by which its tokens are used again."""

    pad_id: int
    engine: str | None
    method: str | None


class Rendering(TypedDict):
    """The part of it that prompts are rendered by; None in the manifests of older versions."""

    date: str | None
    reasoning: str | None


TOKENS = FactFile(Tokens)
ENCODING = FactFile(Encoding)
RENDERING = FactFile(Rendering)
