"""Safetensors checkpoints, read tensor by tensor and written shard by shard."""

import json
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from snaketune.core.atomic import write_json
from snaketune.core.canonical import read_json
from snaketune.core.errors import TrainingError

SHARD_INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
SIZE_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Checkpoint:
    """The tensors of a model folder; only headers are read until a tensor is requested.

    Attributes:
        dtypes: dtype of each tensor, by name, in the order of the files.
        shapes: shape of each tensor.
    """

    def __init__(self, folder: str | Path):
        """Open the checkpoint in ``folder``.

        Raises:
            TrainingError: if a file cannot be read or holds numbers that are not plain floats or integers.
        """
        self.dtypes: dict[str, torch.dtype] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        for path in weight_files(folder):
            try:
                with safe_open(path, "pt") as file:
                    for name in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
                        self._register(path, name, file.get_slice(name))
            except (SafetensorError, FileNotFoundError) as error:
                raise TrainingError(f"{path} cannot be read ({error}): prepare the model again.") from None

    def _register(self, path: Path, name: str, header: Any) -> None:
        kind = header.get_dtype()
        if kind not in DTYPES:
            raise TrainingError(
                f"{path}: {name} has the dtype {kind}, which cannot be merged into: give an unquantised base"
                " model in model.name_or_path, or set merge.enabled to false."
            )
        self.dtypes[name], self.shapes[name] = DTYPES[kind], tuple(header.get_shape())
        self._files[name] = path

    def tensor(self, name: str) -> torch.Tensor:
        """Return the tensor ``name``."""
        with safe_open(self._files[name], "pt") as file:
            return file.get_tensor(name)

    def main_dtype(self) -> torch.dtype:
        """Return the dtype of most of the floating-point weights."""
        totals: dict[torch.dtype, int] = {}
        for name, dtype in self.dtypes.items():
            if dtype in FLOATS:
                # By number of values: norms are often float32 in a bfloat16 model.
                totals[dtype] = totals.get(dtype, 0) + prod(self.shapes[name])
        return max(totals, key=lambda dtype: totals[dtype], default=torch.float32)


def weight_files(folder: str | Path) -> list[Path]:
    """Return the safetensors files of the model in ``folder``: those its index names, else the single one."""
    folder = Path(folder)
    if (folder / SHARD_INDEX).is_file():
        # Only the files of the index: a folder may also contain weights of an earlier download.
        return [folder / name for name in sorted(set(read_json(folder / SHARD_INDEX)["weight_map"].values()))]
    return [folder / SINGLE_FILE] if (folder / SINGLE_FILE).is_file() else []


def size_in_bytes(text: str) -> int:
    """Return the bytes of a size such as ``5GB`` (decimal units)."""
    return int(text[:-2]) * SIZE_UNITS[text[-2:]]


def plan_shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Return the tensor names of each shard, in order; a shard exceeds ``limit`` bytes only with a single tensor."""
    shards: list[list[str]] = []
    # Over the limit, so that the first tensor opens the first shard.
    used = limit + 1
    for name, size in sizes.items():
        if used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def write_shards(
    folder: Path,
    shards: list[list[str]],
    tensor: Callable[[str], torch.Tensor],
    formats: Mapping[str, torch.dtype],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Write the shards, one tensor in memory at a time, with an index when there are several.

    Args:
        folder: where to.
        shards: tensor names of each shard.
        tensor: gives the tensor of a name.
        formats: dtype of each tensor.
        shapes: shape of each tensor.
    """
    names = shard_names(len(shards))
    for file, members in zip(names, shards, strict=True):
        _write_file(folder / file, members, tensor, formats, shapes)
    if len(shards) > 1:
        weight_map = {name: file for file, members in zip(names, shards, strict=True) for name in members}
        size = sum(prod(shapes[name]) * formats[name].itemsize for name in weight_map)
        write_json(folder / SHARD_INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _write_file(
    path: Path,
    members: list[str],
    tensor: Callable[[str], torch.Tensor],
    formats: Mapping[str, torch.dtype],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Write one safetensors file: the length of the header in 8 bytes, the header, the tensors one after the other."""
    # As safetensors itself does: wide numbers first, so that each starts at a multiple of its size.
    members = sorted(members, key=lambda name: -formats[name].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in members:
        start, end = end, end + prod(shapes[name]) * formats[name].itemsize
        kind = next(kind for kind, dtype in DTYPES.items() if dtype == formats[name])
        header[name] = {"dtype": kind, "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    # Padding of the header is part of the format, so that tensors start at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in members:
            value = tensor(name)
            assert (value.dtype, tuple(value.shape)) == (formats[name], shapes[name]), name
            file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def shard_names(count: int) -> Iterable[str]:
    """Return the file names of ``count`` shards."""
    if count == 1:
        return [SINGLE_FILE]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
