"""Checks before Snakemake reads its command line: cache folders without a home, and the values of --config.

``profiles/default`` calls :func:`prepare`, since Snakemake would fail with a traceback on either before it reads a
Snakefile.
"""

import contextlib
import json
import os
import pwd
import re
import shlex
import signal
import sys
import tempfile
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml

from snaketune.config.strict_yaml import load_yaml
from snaketune.core.errors import ConfigError

# What Snakemake accepts as a name.
CONFIG_NAME = re.compile(r"[A-Za-z_][\w-]*\w$")
# Where Snakemake keeps copies of sources, below the folder of caches; whoever ran it as root once may own it.
SOURCE_CACHE = Path("snakemake", "snakemake", "source-cache", "snakemake-runtime-cache")
CONFIG_EXAMPLE = "--config 'train={learning_rate: 1e-4}'"
_QUOTED = re.compile(r"[\s,:#{}\[\]'\"]|^$")


def prepare(arguments: Sequence[str], environment: MutableMapping[str, str] = os.environ) -> None:
    """Set up cache folders; exit with one sentence on Ctrl-C or if the values of ``--config`` cannot be read."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, leave)
    place_caches(environment, Path.cwd() / "work" / "cache")
    try:
        check_config_words(config_words(arguments))
        for path in config_files(arguments):
            load_yaml(path)
    except ConfigError as error:
        print(f"ConfigError: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def leave(number: int, frame: FrameType | None = None) -> NoReturn:
    """Exit, as a signal handler, while no job has been started."""
    with contextlib.suppress(OSError, RuntimeError):  # the terminal is closed, or this interrupts another line
        print(f"{signal.Signals(number).name} received before any job was started.", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def place_caches(environment: MutableMapping[str, str], folder: Path) -> None:
    """Redirect the caches of Snakemake, Hugging Face, torch and others to ``folder`` if the home cannot hold them.

    Containers often have no home folder, one that cannot be written, or a user without a name. Variables that are
    already set stay, and a token of ``hf auth login`` in a read-only home is still found.
    """
    home = Path(environment.get("HOME") or "~")
    home = home.expanduser() if _user_has_name() else home
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    if not _takes_files(cache / SOURCE_CACHE):
        hub = Path(environment.get("HF_HOME") or cache / "huggingface")
        if _takes_files(hub):  # only Snakemake's own folder does not: models that were downloaded stay in use
            environment.setdefault("HF_HOME", str(hub))
        elif (hub / "token").is_file():
            environment.setdefault("HF_TOKEN_PATH", str(hub / "token"))
        environment["XDG_CACHE_HOME"] = str(folder)
    if not _takes_files(home):
        environment.setdefault("TRITON_HOME", str(folder / "triton"))
        environment.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    if not any(environment.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")) and not _user_has_name():
        environment["LOGNAME"] = str(os.getuid())  # torch asks for a user name and fails without one


def _takes_files(folder: Path) -> bool:
    """Tell whether a folder is writable or can be created, by trying: no permission bits tell of /proc or a full disk.

    Nothing is left behind: what is missing is not created.
    """
    if not folder.is_absolute():
        return False
    try:
        while not os.path.lexists(folder):  # a link to nothing is found, and takes no files
            folder = folder.parent
        # Creating a file is the only reliable test: root passes every check of permissions, and read-only mounts have
        # none.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".snaketune-"):
            return True
    except OSError:
        return False


def _user_has_name() -> bool:
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def config_words(arguments: Sequence[str]) -> list[list[str]]:
    """Return the words after each ``--config`` of a command line, as Snakemake reads it."""
    groups: list[list[str]] = []
    is_open = False
    for word in arguments:
        if word == "--":
            break
        if word in ("--config", "-C"):
            groups.append([])
            is_open = True
        elif word.startswith("--config="):
            groups.append([word.removeprefix("--config=")])
            is_open = False
        elif word.startswith("-"):
            is_open = False
        elif is_open:
            groups[-1].append(word)
    return groups


def config_files(arguments: Sequence[str]) -> list[str]:
    """Return the YAML files after ``--configfile`` that exist.

    Snakemake loads and copies them before it reads a Snakefile: one that expands to gigabytes would hang it.
    """
    found: list[str] = []
    is_open = False
    for word in arguments:
        name, equals, value = word.partition("=")
        if name in ("--configfile", "--configfiles"):
            found += [value] if equals else []
            is_open = not equals
        elif word.startswith("-"):
            is_open = False
        elif is_open:
            found.append(word)
    return [path for path in found if path.endswith((".yaml", ".yml")) and Path(path).is_file()]


def check_config_words(groups: list[list[str]]) -> None:
    """Check the syntax of ``--config``; its keys and values are checked with the configuration.

    Raises:
        ConfigError: with the right form.
    """
    words = [word for group in groups for word in group]
    for word in words:
        if "=" not in word:
            _refuse_word(word, words)
    if len(groups) > 1 or any("." in word.partition("=")[0] for word in words):
        given = "is given more than once, and the last would override the others" if len(groups) > 1 else ""
        wrong = next((word for word in words if "." in word.partition("=")[0]), "")
        given = given or f"{wrong}: keys of a section go in braces"
        raise ConfigError(f"--config {given}: write --config {' '.join(map(shlex.quote, _joined(words)))}")
    for word in words:
        name, _, value = word.partition("=")
        if not CONFIG_NAME.match(name):
            raise ConfigError(
                f"--config {word}: {name!r} is not a name of a section: write for example {CONFIG_EXAMPLE}."
            )
        _check_value(name, value)


def _refuse_word(word: str, words: list[str]) -> None:
    text = " ".join(words)
    if text.count("{") and any(each.count("{") != each.count("}") for each in words):
        raise ConfigError(f"--config: the shell has split {text!r} at its spaces: quote it, as in {CONFIG_EXAMPLE}.")
    raise ConfigError(
        f"--config: {word!r} has no `=`: write name=value as in {CONFIG_EXAMPLE}; "
        ""
        ""
        ""
        ""
        ""
        "put targets before --config, which takes "
        "every word after it."
    )


def _check_value(name: str, value: str) -> None:
    if not value.startswith("{"):
        return
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "not readable"
        raise ConfigError(
            f"--config {name}={value}: the braces cannot be read as YAML ({problem}): "
            f"write for example {CONFIG_EXAMPLE}."
        ) from None
    glued = [key for key, inner in read.items() if inner is None and ":" in str(key)] if isinstance(read, dict) else []
    if glued:
        right = value.replace(str(glued[0]), str(glued[0]).replace(":", ": ", 1))
        form = shlex.quote(f"{name}={right}")
        raise ConfigError(f"--config: {value} lacks a space after a colon: write --config {form}")


def _joined(words: list[str]) -> list[str]:
    """Return the words with dotted names as nested ones, one word for each section."""
    tree: dict[str, Any] = {}
    for word in words:
        path, _, value = word.partition("=")
        keys = path.strip(".").split(".")
        inner = tree
        for key in keys[:-1]:
            below = inner.get(key)
            if not isinstance(below, dict):
                below = inner[key] = _opened(below)
            inner = below
        inner[keys[-1]] = value
    return [f"{key}={_flow(value)}" for key, value in tree.items()]


def _opened(value: str | None) -> dict[str, Any]:
    """Return the mapping that a value in braces is, so that dotted keys of its section can join it."""
    try:
        read = yaml.safe_load(value or "")
    except yaml.YAMLError:
        return {}
    return {key: json.dumps(inner) for key, inner in read.items()} if isinstance(read, dict) else {}


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    text = str(value)
    return text if text[:1] in "{[\"'" or not _QUOTED.search(text) else json.dumps(text)
