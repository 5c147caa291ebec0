"""A chat template is tried in a process of its own before it is used: foreign code, bounded in time and memory.

The sandbox keeps a template from the interpreter, not from looping forever or building gigabytes of text. So a child
process compiles it and renders probes and the first records of the run, and is ended when it exceeds its bounds. It
is a process since neither can be stopped in a thread.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snaketune.core.errors import ConfigError, DataError

SECONDS, BYTES, NO_MEMORY = 10, 2 << 30, 3
PROBES: tuple[tuple[str, list[dict[str, Any]], bool], ...] = (
    ("a question", [{"role": "user", "content": "Question"}], True),
    (
        "a question and its answer",
        [{"role": "user", "content": "Question"}, {"role": "assistant", "content": "Answer"}],
        False,
    ),
)
ROOT = Path(__file__).resolve().parents[3]

Named = tuple[str, list[dict[str, Any]], list[dict[str, Any]] | None]


def try_template(
    source: str,
    special_tokens: dict[str, str],
    day: str,
    conversations: Sequence[Named],
    seconds: int = SECONDS,
    size: int = BYTES,
) -> None:
    """Render ``conversations`` and some probes in a child process.

    Args:
        source: the Jinja text.
        special_tokens: as :class:`~snaketune.data.templates.templates.ChatTemplate` takes them.
        day: the date that ``strftime_now`` writes.
        conversations: each with its name for a sentence, its messages and the tools that are offered.
        seconds, size: the most CPU time, and the most memory in bytes.

    Raises:
        ConfigError: if the template cannot be compiled, or exceeds its bounds.
    """
    named: list[tuple[Any, ...]] = [(name, messages, prompt, None) for name, messages, prompt in PROBES]
    named += [(name, messages, False, tools) for name, messages, tools in conversations]
    request = {"source": source, "special_tokens": special_tokens, "day": day, "conversations": named}
    answer, code, errors = _run({**request, "seconds": seconds, "size": size}, seconds)
    started = answer.split(b"\n")
    if started[-1] == b"done":
        return
    if started[-1].startswith(b"!"):
        raise ConfigError(started[-1][1:].decode())
    at = named[len(started) - 2][0] if len(started) > 1 else "any message"
    if code == NO_MEMORY:
        what = f"needs more than {size / (1 << 30):g} GiB of memory"
    elif code < 0:
        what = f"does not finish within {seconds} s"
    else:
        what = f"cannot be tried: {(errors.decode(errors='replace').strip().splitlines() or [str(code)])[-1][:200]}"
    raise ConfigError(f"tokens.chat_template: the chat template {what} (with {at}): correct the template.")


def _run(request: dict[str, Any], seconds: int) -> tuple[bytes, int, bytes]:
    """Return what the child wrote, its exit code (negative when it was ended) and its errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "snaketune.data.templates.template_trial"]
    written = json.dumps(request).encode()
    try:
        # The child counts its own CPU time; the clock is for a child that sleeps.
        clock = 20 * seconds + 60
        child = subprocess.run(command, input=written, capture_output=True, env=environment, timeout=clock, check=False)
    except subprocess.TimeoutExpired as error:
        return error.stdout or b"", -1, b""
    return child.stdout, child.returncode, child.stderr


def main() -> None:
    """Read a request, render, and write a line for each conversation and ``done``."""
    request = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"] + 1))
    from snaketune.data.templates.templates import ChatTemplate

    # What is mapped by now is the interpreter's and the libraries'.
    resource.setrlimit(resource.RLIMIT_AS, (_mapped() + request["size"],) * 2)
    write = sys.stdout.buffer
    try:
        template = ChatTemplate(request["source"], request["special_tokens"], request["day"])
        for _, messages, prompt, tools in request["conversations"]:
            write.write(b"\n")
            write.flush()
            try:
                template.render(messages, prompt, tools)
            except DataError as error:
                if "MemoryError" in str(error):
                    sys.exit(NO_MEMORY)
        write.write(b"\ndone")
    except ConfigError as error:
        write.write(b"\n!" + " ".join(str(error).split()).encode())


def _mapped() -> int:
    """Return the bytes of address space that this process has, 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 4 << 30


if __name__ == "__main__":
    main()
