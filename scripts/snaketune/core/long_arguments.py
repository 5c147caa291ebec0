"""Specs that are too long for a command line: they are written to files named by their content.

Linux limits one argument to 128 KiB, and the whole command of a job is one argument (of ``sh -c``). A rule's param then
holds the file name, which changes exactly when the text does, so reruns are unaffected.
"""

from pathlib import Path

from snaketune.core.atomic import writing
from snaketune.core.canonical import digest_of
from snaketune.core.errors import ConfigError

MARK = "@"
LONGEST_ARGUMENT = 64 << 10


def shortened(text: str, folder: str | Path) -> str:
    """Return a spec, or if it is over 64 KiB the name of the file in ``folder`` that holds it."""
    if len(text) <= LONGEST_ARGUMENT:
        return text
    path = Path(folder) / f"{digest_of(text, size=16)}.json"
    if not path.exists():
        with writing(path) as file:
            file.write(text.encode())
    return f"{MARK}{path}"


def in_full(spec: str) -> str:
    """Return the text of a spec.

    Raises:
        ConfigError: if its file is missing.
    """
    if not spec.startswith(MARK):
        return spec
    try:
        return Path(spec.removeprefix(MARK)).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{spec.removeprefix(MARK)} cannot be read ({error.strerror}): run the same command again."
        ) from None
