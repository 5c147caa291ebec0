"""The manifest of a prepared base model."""

from typing import Any, TypedDict

from snaketune.facts.fact_files import FactFile


class BaseModel(TypedDict):
    """Where a model came from (``kind`` is hub, folder, gguf, tiny or run) and what it is; ``card``: what it states."""

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


BASE_MODEL = FactFile(BaseModel)
