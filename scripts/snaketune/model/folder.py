"""Model folders: checked for anything that would fail or do harm later, then linked file by file into the results."""

import os
from pathlib import Path

from snaketune.core.errors import ConfigError
from snaketune.model.configuration import CONFIG, GENERATION
from snaketune.model.json_files import read_object
from snaketune.model.model_metadata import licence_files
from snaketune.model.tokenizer_files import ensure_fast_tokenizer
from snaketune.model.untrusted_folder import check_types, require_inside
from snaketune.model.weights import find_weight_files

# Everything besides the weights that transformers reads to load a model and its tokenizer.
SUPPORT_PATTERNS = (
    *("config.json", "*_config.json", "*.index.json", "chat_template.json", "normalizer.json"),
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab*.json", "vocab*.txt", "merges*.txt"),
    *("*.model", "*.tiktoken", "*.jinja", "additional_chat_templates/*.jinja"),
)
# A model's own code may read other files as well.
CODE_PATTERNS = ("*.py", "*.json", "*.txt")
# If a model folder contains an adapter's configuration, transformers tries to load the adapter's weights as well.
NOT_OF_A_MODEL = frozenset({"adapter_config.json", "trainer_state.json"})
INDEX_ENDING = ".index.json"
CODE_SOURCES = ("config.json", "tokenizer_config.json")


def link_model(source: Path, target: Path, trust_remote_code: bool, weights: bool = True) -> None:
    """Fill the empty folder ``target`` with links to the files of the model in ``source``.

    Hard links take no space and survive a rename of the source; if they are impossible (another device, another owner),
    the link is symbolic. Without ``weights`` the folder is good for tokenising and planning only.

    Raises:
        ConfigError: if the folder lacks a configuration, safetensors weights or a usable tokenizer, needs its own code
            although ``trust_remote_code`` is off, or contains a link that points outside it.
        DataError: if weights are missing.
    """
    require_model_folder(source)
    if not trust_remote_code:
        refuse_remote_code(source)
    found = find_weight_files(source) if weights else []
    beside = support_files if weights else files_beside_weights
    support = {*beside(source, trust_remote_code), *licence_files(source)}
    for file in [*sorted(support), *found]:
        require_inside(file, source)
        link(file, target / file.relative_to(source))
    ensure_fast_tokenizer(source, target, trust_remote_code)


def require_model_folder(folder: Path) -> None:
    """Raise ConfigError if ``folder`` or its ``config.json`` is missing, or its settings cannot be read."""
    if not folder.is_dir():
        what = "is a file, but not a GGUF file" if folder.exists() else "does not exist"
        raise ConfigError(f"model.name_or_path {folder} {what}: give the path of a model folder or of a GGUF file.")
    if not read_object(folder / CONFIG):
        raise ConfigError(f"model.name_or_path {folder} has no config.json: give a folder in the Hugging Face format.")
    check_types(folder)
    read_object(folder / GENERATION)  # transformers ignores a damaged one, and answers would not stop


def refuse_remote_code(folder: Path) -> None:
    """Raise ConfigError if loading the model or the tokenizer in ``folder`` would run code from that folder."""
    for name in CODE_SOURCES:
        if read_object(folder / name).get("auto_map"):
            raise ConfigError(
                f"{folder / name} asks to run code that comes with the model (auto_map): read that code and, if you"
                " trust it, set model.trust_remote_code to true."
            )


def support_files(folder: Path, trust_remote_code: bool) -> list[Path]:
    """Return the files besides the weights that transformers may read, sorted; code only if it is trusted."""
    patterns = (*SUPPORT_PATTERNS, *CODE_PATTERNS) if trust_remote_code else SUPPORT_PATTERNS
    found = sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
    return [file for file in found if file.name not in NOT_OF_A_MODEL and not file.name.startswith(".")]


def files_beside_weights(folder: Path, trust_remote_code: bool) -> list[Path]:
    """Return the same files without the weight index, for a model folder without weights."""
    return [file for file in support_files(folder, trust_remote_code) if not file.name.endswith(INDEX_ENDING)]


def link(file: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``file`` or its target, or a symbolic link if that is impossible."""
    # The hub's cache consists of symbolic links to blobs: resolving first links the content, not the link.
    target.parent.mkdir(parents=True, exist_ok=True)
    file = file.resolve()
    try:
        os.link(file, target)
    except OSError:
        target.symlink_to(file)
