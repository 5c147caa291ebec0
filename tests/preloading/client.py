"""What stands for ``python`` and ``snakemake``: the server runs the program, this process waits for it.

Run as ``python -IS client.py SOCKET PROGRAM ARGUMENT…``. What cannot be forked is run as ever.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Let the server run the program, pass on signals, and end as it ends."""
    place, program, *arguments = sys.argv[1:]
    if program == "python" and not is_script(arguments):
        run_as_ever(program, arguments)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(place)
    for number in PASSED_ON:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: connection.send(bytes([number])))
    socket.send_fds(connection, [b"0"], [0, 1, 2])
    connection.sendall(request(program, arguments) + b"\n")
    answer = connection.makefile().readline().strip()
    if answer == "refused":
        connection.close()
        run_as_ever(program, arguments)
    end(int(answer or -signal.SIGKILL))


def is_script(arguments: list[str]) -> bool:
    """Tell whether what Python is asked for is a script or a module, and nothing else."""
    beginning = [word for word in arguments if word != "-u"][:1]
    return bool(beginning) and (beginning[0] == "-m" or beginning[0].endswith(".py"))


def request(program: str, arguments: list[str]) -> bytes:
    """Return what makes a process this one: JSON in one line."""
    umask = os.umask(0)
    os.umask(umask)
    ignored = [number for number in PASSED_ON if signal.getsignal(number) is signal.SIG_IGN]
    given = {"program": program, "arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    return json.dumps({**given, "umask": umask, "ignored": ignored, "shims": str(Path(sys.argv[1]).parent)}).encode()


def run_as_ever(program: str, arguments: list[str]) -> None:
    """Become the real program."""
    path = str(Path(sys.executable).with_name(program)) if program != "python" else sys.executable
    for number in PASSED_ON:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    os.execv(path, [path, *arguments])


def end(status: int) -> None:
    """End with an exit status, or by the signal that ended the program."""
    if status >= 0:
        os._exit(status)
    signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -status)
    os._exit(128 - status)


if __name__ == "__main__":
    main()
