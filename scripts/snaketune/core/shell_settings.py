"""Variables of the shell whose values a package refuses: which one an error of its import is about.

These variables are passed to jobs (see ``environment``), and packages read most of them while they are imported, where
a wrong value ends in a traceback that need not name the variable.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from snaketune.core.environment import is_passed
from snaketune.core.errors import ConfigError

# Variable of torch -> what the message of its error holds; ``{value}`` stands for the value as Python writes it.
ALLOCATOR = r"AllocatorConfig|CachingAllocator (option|config)|^sto(ull|ul|d|i)$"
OF_TORCH = {
    "TORCH_LOGS": r"Invalid log settings|\bTORCH_LOGS\b",
    "TORCH_LOGS_OUT": r"{value}",
    "TORCH_TRACE": r"{value}",
    "TORCH_DTRACE": r"{value}",
    "TORCH_DISTRIBUTED_DEBUG": r"\bTORCH_DISTRIBUTED_DEBUG\b",
    "PYTORCH_ALLOC_CONF": ALLOCATOR,
    "PYTORCH_CUDA_ALLOC_CONF": ALLOCATOR,
    "PYTORCH_HIP_ALLOC_CONF": ALLOCATOR,
}
# What Python says of a text that is no number; many packages turn variables into numbers at their import.
NO_NUMBER = re.compile(
    r"^(?:invalid literal for int\(\) with base 10|could not convert string to float): (.+)$", re.DOTALL
)
PACKAGE_IN_PATH = re.compile(r"/(?:site|dist)-packages/(\w+)")
SHOWN_CHARACTERS = 100


def refused_setting(error: BaseException, environment: Mapping[str, str] = os.environ) -> ConfigError | None:
    """Return an error that names the variable which a package's error is about, or None if it is about none."""
    for cause in _causes(error):
        packages = _packages(cause)
        for name, value in environment.items():
            if value and packages and _is_about(cause, packages, name, value):
                reason = next(filter(None, map(str.strip, str(cause).splitlines())))
                return ConfigError(
                    f"package {packages[-1]} does not accept {name}={value[:SHOWN_CHARACTERS]} "
                    f"of the shell ({reason[:SHOWN_CHARACTERS]}):"
                    f" correct it, or `unset {name}`."
                )
    return None


def _is_about(error: BaseException, packages: list[str], name: str, value: str) -> bool:
    if name in OF_TORCH and "torch" in packages and isinstance(error, ValueError | RuntimeError | OSError):
        return bool(re.search(OF_TORCH[name].replace("{value}", re.escape(repr(value))), str(error)))
    number = NO_NUMBER.match(str(error)) if isinstance(error, ValueError) else None
    return number is not None and number[1] == repr(value) and is_passed(name)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    seen = set[int]()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _packages(error: BaseException) -> list[str]:
    """Return the installed packages that an error went through, the innermost last."""
    found, trace = list[str](), error.__traceback__
    while trace is not None:
        if match := PACKAGE_IN_PATH.search(Path(trace.tb_frame.f_code.co_filename).as_posix()):
            found.append(match[1])
        trace = trace.tb_next
    return found
