"""The tokenizer of a prepared model: ids, offsets and special tokens, through ``tokenizers`` and without torch."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from snaketune.core.canonical import read_json
from snaketune.core.errors import DataError
from snaketune.data.templates.built_in_templates import read_template
from snaketune.model.configuration import CONFIG, GENERATION
from snaketune.model.stop_tokens import generation_settings, ids_as_list

SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
NAMING_FILES = ("special_tokens_map.json", "tokenizer_config.json")
# All files that a tokenizer is read from.
TOKENIZER_FILES = ("tokenizer.json", *NAMING_FILES, CONFIG, GENERATION)


class TextTokenizer:
    """A fast tokenizer with its special tokens; immutable once read.

    Attributes:
        path: its ``tokenizer.json``.
        special_tokens: the texts of ``bos_token`` and so on, as far as they are defined.
        vocab_size: number of tokens, including added ones.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.path = folder / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(self.path))
        # A tokenizer.json may carry truncation and padding settings, which would cut or fill texts silently.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special_tokens = _special_tokens(folder)
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def added_tokens(self) -> dict[int, AddedToken]:
        """The tokens that are matched in text before anything else, by id."""
        return self._tokenizer.get_added_tokens_decoder()

    @functools.cached_property
    def control_tokens(self) -> re.Pattern[str] | None:
        """A pattern that matches any control token written as text, or None if there are no control tokens."""
        # Longest first, so that a token that is a prefix of another one does not shadow it.
        names = {token.content for token in self.added_tokens.values() if token.special}
        ordered = sorted({*names, *self.special_tokens.values(), *self.stops}, key=lambda name: (-len(name), name))
        visible = [re.escape(name) for name in ordered if name.strip()]
        return re.compile("|".join(visible)) if visible else None

    def control_token_in(self, text: str) -> str:
        """Return the first control token spelled in ``text``, as written or after normalisation, or ''."""
        if self.control_tokens is None:
            return ""
        found = self.control_tokens.search(text)
        if not found and self._normalises_control_tokens:
            found = self.control_tokens.search(self._tokenizer.normalizer.normalize_str(text))
        return found.group() if found else ""

    @functools.cached_property
    def _normalises_control_tokens(self) -> bool:
        matched_later = any(token.special and token.normalized for token in self.added_tokens.values())
        return matched_later and self._tokenizer.normalizer is not None

    @functools.cached_property
    def stops(self) -> tuple[str, ...]:
        """The texts of the stop tokens: eos_token, and eos_token_id of the generation settings."""
        found = {*ids_as_list(generation_settings(self.path.parent).get("eos_token_id")), *ids_as_list(self.eos_id)}
        names = [self._tokenizer.id_to_token(number) for number in sorted(found)]
        return tuple(name for name in names if name and name.strip())

    @property
    def end_token(self) -> str:
        """The token added to an answer that a chat template leaves unended: eos, else the first stop token, or ''."""
        return self.special_tokens.get("eos_token", "") or next(iter(self.stops), "")

    def ids_of(self, names: Iterable[str]) -> np.ndarray:
        """Return the ids of tokens given by text, ascending, int32; unknown texts are skipped."""
        found = {number for name in names if (number := self._tokenizer.token_to_id(name)) is not None}
        return np.asarray(sorted(found), np.int32)

    @property
    def eos_id(self) -> int | None:
        """The id of the end-of-sequence token, if the tokenizer has one."""
        return self._id("eos_token")

    @property
    def bos_id(self) -> int | None:
        """The id of the beginning-of-sequence token, if the tokenizer has one."""
        return self._id("bos_token")

    @property
    def pad_id(self) -> int:
        """The id that fills rows: the padding token, else the end-of-sequence token, else 0 (it is never trained)."""
        for name in ("pad_token", "eos_token"):
            if (found := self._id(name)) is not None:
                return found
        return 0

    def encode_batch(self, texts: list[str], add_special_tokens: bool, offsets: bool = True) -> list[Any]:
        """Return one encoding per text with ``ids`` and, if wanted, character ``offsets``."""
        encode = self._tokenizer.encode_batch if offsets else self._tokenizer.encode_batch_fast
        return encode(texts, add_special_tokens=add_special_tokens)

    def decode(self, ids: list[int]) -> str:
        """Return the text of ``ids`` with special tokens spelled out."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return self._tokenizer.token_to_id(token) if token else None


def text_tokenizer(folder: str | Path) -> TextTokenizer:
    """Return the tokenizer in ``folder``, cached per process: reading a vocabulary of 262,144 tokens takes seconds."""
    states = [file.stat() for name in TOKENIZER_FILES if (file := Path(folder) / name).is_file()]
    return _read_once(str(folder), tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states))


@functools.lru_cache(maxsize=2)
def _read_once(folder: str, states: tuple[tuple[int, ...], ...]) -> TextTokenizer:
    return TextTokenizer(folder)


def _special_tokens(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in NAMING_FILES:
        if (folder / file).is_file():
            values = read_json(folder / file)
            found |= {name: _content(values[name]) for name in SPECIAL_NAMES if values.get(name)}
    return found


def _content(token: Any) -> str:
    found: str = token["content"] if isinstance(token, dict) else token
    return found


def own_chat_template(folder: str | Path) -> str | None:
    """Return the chat template of the tokenizer in ``folder``, if it has one.

    Raises:
        DataError: if it has several and none is named ``default``.
    """
    folder = Path(folder)
    if (folder / "chat_template.jinja").is_file():
        return read_template(folder / "chat_template.jinja")
    config = folder / "tokenizer_config.json"
    template = read_json(config).get("chat_template") if config.is_file() else None
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        if "default" not in named:
            raise DataError(
                f"{config} has the chat templates {', '.join(sorted(named))} but no default: copy one into a file and "
                "set tokens.chat_template to it."
            )
        found: str | None = named["default"]
        return found
    return template
