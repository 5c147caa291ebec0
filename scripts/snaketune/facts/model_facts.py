"""The manifest of a prepared base model."""

from typing import Any, NotRequired, TypedDict

from snaketune.facts.data_facts import FileEntry
from snaketune.facts.fact_files import FactFile


class Nature(TypedDict, total=False):
    """A model's architecture, and whether the documents of its packed rows are independent; None if unknown."""

    kind: str
    packing: bool | None


class ModelFacts(TypedDict):
    """Origin (``kind``: hub, folder, gguf, tiny or run) and description of a model; ``card``: what its card states."""

    kind: str
    name: str
    repo: str | None
    revision: str | None
    commit: str | None
    files: dict[str, FileEntry]
    card: dict[str, Any]
    dtype: str | None
    quantization: str | None
    vocab_size: int | None
    context_length: int | None
    weights_digest: str | None
    tokenizer_digest: str | None
    configuration_digest: NotRequired[str]
    merged_digest: str | None


class BaseModel(ModelFacts):
    """The manifest of a prepared model, for pages and cards."""

    parameters: int | None


class PreparedModel(ModelFacts):
    """The same for jobs that compute with its size, which every manifest has."""

    parameters: int


class BaseWeights(TypedDict):
    """The part of it that an adapter has to fit."""

    weights_digest: str | None


class PreparedTokenizer(TypedDict):
    """What data stages need to know of a model: its sizes in tokens, its files, and whether it packs (``nature``)."""

    vocab_size: int | None
    context_length: int | None
    tokenizer_digest: str
    chat_template_digest: str | None
    commit: str | None
    nature: Nature


class Vocabulary(TypedDict):
    """The part of it that tokenising reads."""

    vocab_size: int | None


BASE_MODEL = FactFile(BaseModel)
PREPARED_TOKENIZER = FactFile(PreparedTokenizer)
PREPARED_MODEL = FactFile(PreparedModel)
BASE_WEIGHTS = FactFile(BaseWeights)
VOCABULARY = FactFile(Vocabulary)
