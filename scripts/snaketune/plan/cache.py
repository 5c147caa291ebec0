"""A cache of facts derived from a model configuration, which each plan needs many times.

It lives as long as the process, and for a prepared model also in a file, so that the next plan of the same model needs
neither torch nor transformers.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

from snaketune.train.packages import versions_of

PLACE = "_name_or_path"  # the folder that a configuration was read from has no influence
P = ParamSpec("P")
R = TypeVar("R")


class KeptAnswers:
    """Cached facts of one prepared model in a JSON file; writing it drops the facts of other identities.

    Args:
        path: the file.
        identity: digest of all inputs: the model's files, the packages and our code.
    """

    def __init__(self, path: Path, identity: str):
        # Not at the top: benchmarks count a model's parameters where orjson is not installed.
        from snaketune.core.cached_state import read_state

        self._path, self._prefix = path, f"{identity} "
        found = read_state(path, lambda value: value is not None)
        self._known = {name: value for name, value in found.items() if name.startswith(self._prefix)}
        self._is_new = False

    def value(self, question: str, find_out: Callable[[], Any]) -> Any:
        """Return the cached answer to ``question``, or compute it by ``find_out`` and cache it as JSON."""
        name = self._prefix + question
        if name not in self._known:
            self._known[name] = find_out()
            self._is_new = True
        return self._known[name]

    def save(self) -> None:
        """Write new answers; of two concurrent plans each may lose what the other wrote, which only costs time."""
        from snaketune.core.cached_state import write_state

        if self._is_new:
            write_state(self._path, self._known)
            self._is_new = False


def answers_about(model: Mapping[str, Any], code: str, path: Path) -> KeptAnswers:
    """Return the facts that earlier plans cached for a prepared model.

    Args:
        model: its manifest, with the digests of its files.
        code: digest of our code.
        path: the file that the answers are kept in.
    """
    from snaketune.core.canonical import digest_of

    return KeptAnswers(path, digest_of([code, dict(model), versions_of()], 8))


class PreparedConfiguration:
    """A lazy ``PreTrainedConfig`` of a prepared model, read only when a fact is not in the cache.

    Args:
        answers: what is known.
        read: reads the configuration.
    """

    def __init__(self, answers: KeptAnswers, read: Callable[[], Any]):
        self._answers, self._read, self._config = answers, read, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.read(), name)

    def read(self) -> Any:
        """Return the configuration itself."""
        if self._config is None:
            self._config = self._read()
        return self._config

    def answer(self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return what ``function`` says of the configuration: a number or a dataclass of numbers, as its hint says."""
        question = f"{function.__name__}{arguments!r}{sorted(named.items())!r}"
        kind = get_type_hints(function)["return"]
        found = self._answers.value(question, lambda: _plain(function(self.read(), *arguments, **named)))
        return kind(**found) if isinstance(kind, type) and is_dataclass(kind) else found


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def remembered(function: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Return ``function(config, ...)`` with its answers kept by the content of the configuration and the arguments.

    The configurations of transformers are mutable and cannot be keys themselves; errors are not kept.
    """
    answers: dict[tuple[Any, ...], R] = {}

    @wraps(function)
    def asked(config: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if isinstance(config, PreparedConfiguration):
            found: R = config.answer(asked_plainly, args, kwargs)
            return found
        return asked_plainly(config, *args, **kwargs)

    @wraps(function)
    def asked_plainly(config: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        content = {name: value for name, value in config.to_dict().items() if name != PLACE}
        key = (type(config), json.dumps(content, sort_keys=True, default=str), args, tuple(sorted(kwargs.items())))
        if key not in answers:
            answers[key] = function(config, *args, **kwargs)
        return answers[key]

    return asked
