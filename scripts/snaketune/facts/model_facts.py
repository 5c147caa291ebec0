"""The manifest of a prepared base model."""

from typing import Any, TypedDict

from snaketune.facts.fact_files import FactFile


class BaseModel(TypedDict):
    """Origin (``kind``: hub, folder, gguf, tiny or run) and description of a model; ``card``: what its card states."""

    kind: str
    name: str
    repo: str | None
    revision: str | None
    commit: str | None
    files: dict[str, dict[str, Any]]
    card: dict[str, Any]
    parameters: int | None
    dtype: str | None
    quantization: str | None
    context_length: int | None
    weights_digest: str | None
    tokenizer_digest: str | None
    merged_digest: str | None


class PreparedTokenizer(TypedDict):
    """What data stages need to know of a model: its context in tokens, and whether it packs (``nature``)."""

    context_length: int | None
    tokenizer_digest: str
    nature: dict[str, Any]


BASE_MODEL = FactFile(BaseModel)
PREPARED_TOKENIZER = FactFile(PreparedTokenizer)
