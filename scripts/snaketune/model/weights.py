"""Weights in safetensors files: counted from their headers, checked for finite values and digested tensor by tensor."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.canonical import canonical_bytes
from snaketune.core.errors import ConfigError, DataError
from snaketune.model.json_files import read_object

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")
# Names of the token embedding in the models of transformers.
EMBEDDINGS = frozenset(
    {"embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "embeddings", "embedding", "embed", "emb"}
)
PIECE_VALUES = 1 << 24  # values checked at a time: 64 MiB as 32-bit floats

DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8", "U8": "uint8"}


@dataclass(frozen=True)
class WeightFacts:
    """The number of parameters of a model, and the dtype in which most of them are stored."""

    parameters: int
    dtype: str


def find_weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files from which transformers loads the model in ``folder``, sorted.

    Raises:
        ConfigError: if the folder has no such file.
        DataError: if the index names a file that is missing.
    """
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if not (folder / INDEX_FILE).is_file():
        refuse_unsafe_weights(str(folder), [file.name for file in folder.iterdir()])
        raise ConfigError(
            f"model.name_or_path {folder} has no {SINGLE_FILE} and no {INDEX_FILE}: give a complete model."
        )
    named = read_object(folder / INDEX_FILE).get("weight_map", {})
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise DataError(f"{folder / INDEX_FILE}: weight_map does not map tensors to files: copy it again.")
    names = sorted(set(named.values()))
    for name in names:
        # The index is foreign text: a name with a path in it could point outside the folder.
        if Path(name).name != name or not (folder / name).is_file():
            raise DataError(f"{folder / INDEX_FILE} names the file {name}, which is not there: copy the model again.")
    return [folder / name for name in names]


def refuse_unsafe_weights(place: str, names: Sequence[str]) -> None:
    """Raise ConfigError if the files ``names`` of the model at ``place`` contain weights, but none in safetensors."""
    if SINGLE_FILE in names or INDEX_FILE in names:
        return
    if "adapter_model.safetensors" in names:
        raise ConfigError(
            f"model.name_or_path {place} holds an adapter, not a model: merge it with its base model first and give"
            " the merged folder."
        )
    pickled = sorted(name for name in names if name.endswith(PICKLED_ENDINGS))
    if pickled:
        raise ConfigError(
            f"model.name_or_path {place} has only pickled weights ({pickled[0]}), which can run code when they are "
            "loaded: if you trust them, convert them once with transformers' from_pretrained(...) and "
            "save_pretrained(...), which writes safetensors, and give the new folder."
        )


def count_parameters(files: Sequence[Path]) -> WeightFacts:
    """Count the parameters in safetensors ``files`` from their headers, without reading any weights.

    Raises:
        DataError: if a file is damaged or contains no tensor.
    """
    sizes: Counter[str] = Counter()
    for file in files:
        with _opened(file, "np") as handle:
            for name in handle.keys():  # noqa: SIM118
                tensor = handle.get_slice(name)
                sizes[tensor.get_dtype()] += math.prod(tensor.get_shape())
    if not sizes.total():
        raise DataError(f"{files[0]} holds no weights: copy the model again.")
    commonest = max(sizes, key=lambda name: (sizes[name], name))
    return WeightFacts(sizes.total(), DTYPE_NAMES.get(commonest, commonest.lower()))


def digest_weights(files: Iterable[Path]) -> str:
    """Check that every weight is a finite number and return one digest over all tensors.

    The digest (BLAKE2b-128, hex) covers name, dtype, shape and bytes of each tensor in the order of the names, so it
    does not depend on the distribution of tensors over files. Each tensor is memory-mapped, never copied whole.

    Raises:
        DataError: if a tensor contains NaN or infinity, from which training can only produce more of them.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, tensor, file in _tensors(files):
        state.update(canonical_bytes([name, str(tensor.dtype), list(tensor.shape)]))
        for piece in tensor.reshape(-1).split(PIECE_VALUES):
            if not _is_finite(piece):
                raise DataError(
                    f"{file} has values that are not finite numbers (NaN or infinity) in the tensor {name}: training "
                    "would fail; use an undamaged copy of the model."
                )
            state.update(_bytes_of(piece))
    return state.hexdigest()


@contextmanager
def embedding_rows(folder: Path) -> Iterator[Any]:
    """Yield a lazily read slice of the token embedding in ``folder``, or None if it is not found.

    It is the tensor with an embedding's name and one row per token of the vocabulary; the output layer does not count.
    """
    with ExitStack() as stack:
        yield next(_embeddings(folder, stack), None)


def _embeddings(folder: Path, stack: ExitStack) -> Iterator[Any]:
    if not ((folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file()):
        return
    config = read_object(folder / "config.json")
    rows = {**config, **(config.get("text_config") or {})}.get("vocab_size")
    for file in find_weight_files(folder):
        handle = stack.enter_context(_opened(file, "pt"))
        for name in sorted(handle.keys()):
            part = handle.get_slice(name)
            shape, words = part.get_shape(), name.split(".")
            if len(shape) == 2 and shape[0] == rows and any(word in EMBEDDINGS for word in words):
                yield part


def stored_weights(files: Iterable[Path], names: Sequence[str]) -> list[Any]:
    """Return the tensors ``names`` as far as they are in ``files``, in the order of the files."""
    found = []
    for file in files:
        with _opened(file, "pt") as handle:
            found += [handle.get_tensor(name) for name in handle.keys() if name in names]  # noqa: SIM118
    return found


def _tensors(files: Iterable[Path]) -> Iterator[tuple[Any, ...]]:
    """Yield (name, tensor, file) over all ``files`` in the order of the names."""
    with ExitStack() as stack:
        opened = {file: stack.enter_context(_opened(file, "pt")) for file in files}
        for name, file in sorted((name, file) for file, handle in opened.items() for name in handle.keys()):  # noqa: SIM118
            yield name, opened[file].get_tensor(name), file


@contextmanager
def _opened(file: Path, framework: str) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework=framework) as handle:
            yield handle
    except SafetensorError as error:
        raise DataError(
            f"{file} is not a complete safetensors file ({error}): it is truncated or damaged; copy it again."
        ) from error


def _is_finite(piece: Any) -> bool:
    if not piece.is_floating_point():
        return True
    # torch has no isfinite for 8-bit floats; float32 represents each of their values exactly.
    wide = piece.float() if piece.element_size() == 1 else piece
    return bool(wide.isfinite().all())


def _bytes_of(piece: Any) -> memoryview:
    import torch

    return memoryview(piece.contiguous().view(torch.uint8).numpy())
