"""A GGUF file: recognised by its first bytes, and what its metadata says, without reading a weight."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snaketune.core.errors import ConfigError
from snaketune.model.configuration import CONFIG
from snaketune.model.model_metadata import LANGUAGE, LICENCE, MOST_LANGUAGES

if TYPE_CHECKING:
    from snaketune.model.gguf.gguf_reader import GgufReader

MAGIC = b"GGUF"
SUFFIX = ".gguf"
SPLIT_NAME = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
# llama.cpp keeps a projector, which maps images or sound into a language model, in a file beside the model's own.
OTHER_KINDS = {"adapter": "a LoRA adapter", "mmproj": "the vision or audio part of a model", "imatrix": "statistics"}
PROJECTOR_ARCHITECTURES = frozenset({"clip"})
PLAIN_TYPES = frozenset({"F16", "BF16", "F32", "F64"})


class UnsupportedGguf(Exception):
    """A GGUF file holds what no model in the Hugging Face format expresses; the text says what."""


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What a GGUF file says about itself.

    Attributes:
        architecture: llama.cpp's name of it, such as ``llama``.
        name: the model's name, empty where the file has none.
        quantization: the type in which most of the weights are stored, such as ``Q4_1`` or ``F16``.
        card: ``license`` and ``language`` as a model card states them, as far as the file does.
    """

    architecture: str
    name: str
    quantization: str
    card: dict[str, Any]

    @property
    def is_quantized(self) -> bool:
        """Whether the weights are approximations that have to be dequantised before training."""
        return self.quantization not in PLAIN_TYPES


def find_gguf(path: Path) -> Path | None:
    """Return the GGUF file that ``path`` is or, as a folder without a configuration, holds; ``None`` if neither.

    The content decides, not the name: Ollama keeps its models as ``blobs/sha256-…``.

    Raises:
        ConfigError: if a folder holds several such files.
    """
    if not path.is_dir():
        return path if path.is_file() and _has_magic(path) else None
    if (path / CONFIG).exists():
        return None
    found = sorted(file for file in path.glob(f"*{SUFFIX}") if _has_magic(file))
    if len(found) > 1 and not SPLIT_NAME.search(found[0].name):
        names = ", ".join(file.name for file in found[:5])
        raise ConfigError(f"model.name_or_path {path} holds {len(found)} GGUF files ({names}): give the path of one.")
    return found[0] if found else None


def _has_magic(file: Path) -> bool:
    with open(file, "rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC


def gguf_facts(file: Path, reader: "GgufReader") -> GgufFacts:
    """Return what the metadata of ``file`` says.

    Raises:
        ConfigError: if it is a part of a split model, or not a language model.
    """
    architecture = str(reader.value("general.architecture", ""))
    parts = max([int(reader.value("split.count", 1)), *(int(number) for number in SPLIT_NAME.findall(file.name))])
    if parts > 1:
        raise ConfigError(
            f"model.name_or_path {file} is one of {parts} parts of a model: join them with llama.cpp's"
            " `llama-gguf-split --merge` and give the file that it writes."
        )
    kind = OTHER_KINDS.get("mmproj" if architecture in PROJECTOR_ARCHITECTURES else reader.value("general.type", ""))
    if kind or not architecture:
        raise ConfigError(
            f"model.name_or_path {file} is {kind or 'of unknown architecture'}, not a language model: give the"
            " model's own file."
        )
    return GgufFacts(architecture, str(reader.value("general.name", "")), _quantisation(reader), _card(reader))


def _quantisation(reader: "GgufReader") -> str:
    """Return what the file calls its quantisation, such as Q4_K_M, or the type that most of its weights have."""
    from gguf import LlamaFileType

    number = reader.value("general.file_type")
    known = {int(kind): kind.name for kind in LlamaFileType}
    name = known.get(number, "") if isinstance(number, int) else ""
    return name.removeprefix("MOSTLY_").removeprefix("ALL_") or _commonest_type(reader)


def _commonest_type(reader: "GgufReader") -> str:
    sizes: dict[str, int] = {}
    for tensor in reader.tensors:
        sizes[tensor.tensor_type.name] = sizes.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    return max(sizes, key=lambda name: (sizes[name], name), default="")


def _card(reader: "GgufReader") -> dict[str, Any]:
    licence, languages = reader.value("general.license"), list(_languages(reader.value("general.languages")))
    stated: dict[str, Any] = {"language": languages} if languages else {}
    if isinstance(licence, str) and LICENCE.fullmatch(licence):
        stated["license"] = licence.lower()
    return stated


def _languages(value: Any) -> Iterator[str]:
    for word in (value if isinstance(value, list) else [value])[:MOST_LANGUAGES]:
        if isinstance(word, str) and LANGUAGE.fullmatch(word):
            yield word
