"""A trial of a chat template in a separate process, with limits on time and memory, before it is used.

A template is foreign code. The sandbox protects the interpreter, but not against endless loops or gigabytes of text. A
child process therefore compiles the template, renders probes and the first records of the run, and is killed if it
exceeds its limits. A thread could be limited in neither.
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

TRIAL_SECONDS, BYTES, NO_MEMORY = 10, 2 << 30, 3
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
    seconds: int = TRIAL_SECONDS,
    size: int = BYTES,
) -> None:
    """Render ``conversations`` and some probes in a child process.

    Args:
        source: the Jinja text.
        special_tokens: as for :class:`~snaketune.data.templates.templates.ChatTemplate`.
        day: the date that ``strftime_now`` writes.
        conversations: each with its name for messages, its messages and its tools.
        seconds: limit on CPU time.
        size: limit on memory, in bytes.

    Raises:
        ConfigError: if the template cannot be compiled, or exceeds a limit.
    """
    named: list[tuple[Any, ...]] = [(name, messages, prompt, None) for name, messages, prompt in PROBES]
    named += [(name, messages, False, tools) for name, messages, tools in conversations]
    request = {"source": source, "special_tokens": special_tokens, "day": day, "conversations": named}
    answer, code, errors = _run({**request, "seconds": seconds, "size": size}, seconds)
    # The child writes a line break before each conversation: their number tells in which one it was killed.
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
    """Return the child's output, its exit code (negative if it was killed) and its errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "snaketune.data.templates.template_trial"]
    written = json.dumps(request).encode()
    try:
        # The limit on CPU time does not catch a child that sleeps; the wall-clock timeout does.
        clock = 20 * seconds + 60
        child = subprocess.run(command, input=written, capture_output=True, env=environment, timeout=clock, check=False)
    except subprocess.TimeoutExpired as error:
        return error.stdout or b"", -1, b""
    return child.stdout, child.returncode, child.stderr


def main() -> None:
    """Read a request, render its conversations, write a line for each and ``done`` at the end."""
    request = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"] + 1))
    from snaketune.data.templates.templates import ChatTemplate

    # Address space mapped by the interpreter and the libraries so far does not count against the template.
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
    """Return the address space of this process in bytes; 4 GiB where /proc does not exist."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 4 << 30


if __name__ == "__main__":
    main()
