"""GGUF files: recognised by their first bytes, and described from their metadata without reading any weights."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snaketune.core.errors import ConfigError
from snaketune.model.configuration import CONFIG
from snaketune.model.model_metadata import LANGUAGE, LICENCE, MOST_LANGUAGES

if TYPE_CHECKING:
    from snaketune.model.gguf.gguf_reader import GgufReader

MAGIC = b"GGUF"
GGUF_PACKAGE = "gguf"
SUFFIX = ".gguf"
SPLIT_NAME = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
# llama.cpp stores a projector, which maps images or audio into a language model, in a separate file.
OTHER_KINDS = {"adapter": "a LoRA adapter", "mmproj": "the vision or audio part of a model", "imatrix": "statistics"}
PROJECTOR_ARCHITECTURES = frozenset({"clip"})
PLAIN_TYPES = frozenset({"F16", "BF16", "F32", "F64"})


class UnsupportedGguf(Exception):
    """A GGUF file that cannot be expressed in the Hugging Face format, with the reason."""


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """The metadata of a GGUF file.

    Attributes:
        architecture: llama.cpp's name of the architecture, such as ``llama``.
        name: the model's name, empty if the file has none.
        quantization: the type in which most weights are stored, such as ``Q4_1`` or ``F16``.
        card: ``license`` and ``language`` for a model card, as far as the file gives them.
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
    """Return ``path`` if it is a GGUF file, or the GGUF file in the folder ``path`` without configuration, else None.

    The content decides, not the name: Ollama stores its models as ``blobs/sha256-…``.

    Raises:
        ConfigError: if a folder contains several GGUF files.
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
    """Return the facts from the metadata of ``file``.

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
    """Return the file's own name of its quantisation, such as Q4_K_M, or the type of most of its weights."""
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


def require_gguf(file: Path) -> None:
    """Raise ConfigError if the package that reads GGUF files is not installed."""
    if find_spec(GGUF_PACKAGE) is None:
        raise ConfigError(
            f"model.name_or_path {file} is a GGUF file, which needs the package {GGUF_PACKAGE}: install it with"
            " `pip install --no-deps -r envs/extras/gguf.txt -c constraints.txt`."
        )
