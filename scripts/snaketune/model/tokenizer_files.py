"""The tokenizer files of a model folder: converted to a fast tokenizer if needed, and digested."""

import tempfile
from pathlib import Path
from typing import Any

from snaketune.core.canonical import digest_of
from snaketune.core.errors import ConfigError
from snaketune.model.json_files import read_object

FAST_FILE = "tokenizer.json"
SLOW_FILES = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model")
SPECIAL_TOKEN_FILES = ("special_tokens_map.json", "added_tokens.json")
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"

# Where a tokenizer was loaded from and which version saved it do not affect tokenisation; the chat template has its own
# digest.
VOLATILE_TOKENIZER_KEYS = frozenset(
    {"name_or_path", "transformers_version", "is_local", "local_files_only", "backend", "_commit_hash", "chat_template"}
)


def ensure_fast_tokenizer(source: Path, target: Path, trust_remote_code: bool) -> None:
    """Write ``tokenizer.json`` into ``target`` if the model in ``source`` has only a slow tokenizer.

    Raises:
        ConfigError: if the model has no tokenizer or it cannot be converted.
    """
    if (source / FAST_FILE).is_file():
        return
    slow = next((source / name for name in SLOW_FILES if (source / name).is_file()), None)
    if slow is None:
        raise ConfigError(
            f"model.name_or_path {source} has no {FAST_FILE}: copy the model's tokenizer into that folder."
        )
    _save_beside_links(_convert(slow, trust_remote_code), target)


def _convert(slow: Path, trust_remote_code: bool) -> Any:
    """Return the fast tokenizer converted from the vocabulary file ``slow``."""
    from transformers import AutoTokenizer

    advice = f"write {FAST_FILE} where it can be converted and put it beside that file"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            slow.parent, use_fast=True, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # tokenizer classes raise errors of many types; the reason is passed on
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"{slow} cannot be converted into a fast tokenizer ({reason}): {advice}.") from error
    if not tokenizer.is_fast:
        raise ConfigError(f"{slow} has no fast form ({type(tokenizer).__name__}): {advice}.")
    return tokenizer


def _save_beside_links(tokenizer: Any, folder: Path) -> None:
    """Save ``tokenizer`` into ``folder`` by renaming, since its files may be hard links to the user's own."""
    # Opening a hard-linked file for writing would change the user's model folder.
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        tokenizer.save_pretrained(fresh)
        for file in sorted(path for path in Path(fresh).rglob("*") if path.is_file()):
            target = folder / file.relative_to(fresh)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)


def tokenizer_digest(folder: Path) -> str:
    """Return the digest of everything that determines how text becomes tokens, without the chat template."""
    content = {name: read_object(folder / name) for name in (FAST_FILE, *SPECIAL_TOKEN_FILES)}
    config = read_object(folder / "tokenizer_config.json")
    content["tokenizer_config"] = {key: value for key, value in config.items() if key not in VOLATILE_TOKENIZER_KEYS}
    return digest_of(content)


def chat_template_digest(folder: Path) -> str | None:
    """Return the digest of the chat template that transformers would use, ``None`` if the model has none."""
    template = _chat_template(folder)
    return None if template is None else digest_of(template)


def _chat_template(folder: Path) -> Any:
    extra = {file.stem: file.read_text(encoding="utf-8") for file in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))}
    if (folder / TEMPLATE_FILE).is_file():
        main: Any = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    else:
        main = read_object(folder / "tokenizer_config.json").get("chat_template")
    return {"default": main, **extra} if extra else main
