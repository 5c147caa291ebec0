"""Variables of the shell whose values torch refuses: which one an error at its import is about.

These variables are passed to jobs (see ``environment``), and torch reads most of them while it is imported, where a
wrong value ends in a traceback that need not name the variable.
"""

import os
import re
from collections.abc import Iterator, Mapping

from snaketune.core.errors import ConfigError

# Variable -> what the message of torch's error holds; ``{value}`` stands for the value as Python writes it.
ALLOCATOR = r"AllocatorConfig|CachingAllocator (option|config)|^sto(ull|ul|d|i)$"
REFUSED = {
    "TORCH_LOGS": r"Invalid log settings|\bTORCH_LOGS\b",
    "TORCH_LOGS_OUT": r"{value}",
    "TORCH_TRACE": r"{value}",
    "TORCH_DTRACE": r"{value}",
    "TORCH_DISTRIBUTED_DEBUG": r"\bTORCH_DISTRIBUTED_DEBUG\b",
    "TORCHINDUCTOR_COMPILE_THREADS": r"{value}",
    "PYTORCH_ALLOC_CONF": ALLOCATOR,
    "PYTORCH_CUDA_ALLOC_CONF": ALLOCATOR,
    "PYTORCH_HIP_ALLOC_CONF": ALLOCATOR,
}
SHOWN = 100


def refused_setting(error: BaseException, environment: Mapping[str, str] = os.environ) -> ConfigError | None:
    """Return an error that names the variable which torch's error is about, or None if it is about none."""
    for cause in _causes(error):
        if not isinstance(cause, ValueError | RuntimeError | OSError) or not _comes_from_torch(cause):
            continue
        for name, pattern in REFUSED.items():
            value = environment.get(name)
            if value and re.search(pattern.replace("{value}", re.escape(repr(value))), str(cause)):
                reason = next(filter(None, map(str.strip, str(cause).splitlines())))
                return ConfigError(
                    f"torch refuses the shell's {name}={value[:SHOWN]} ({reason[:SHOWN]}): correct it, or"
                    f" `unset {name}`."
                )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    seen = set[int]()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _comes_from_torch(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if "/torch/" in trace.tb_frame.f_code.co_filename:
            return True
        trace = trace.tb_next
    return False
