"""Serve a merged model to clients of the OpenAI API, with vLLM or `transformers serve`."""

import argparse
import os
from pathlib import Path

from snaketune.core import cli


def main() -> None:
    """Find the model and the server, and replace this process by the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=str, help="the run; not needed where only one has a merged model")
    parser.add_argument("--results", type=Path, default=Path("results"), help="paths.results of the configuration")
    host = "address to listen on; the default is reachable from this machine only"
    parser.add_argument("--host", type=str, default="127.0.0.1", help=host)
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    arguments = parser.parse_args()
    from snaketune.ask.serving import find_merged, server_command

    model = find_merged(arguments.results, arguments.run or None).absolute()
    name = model.parents[1].name
    command = server_command(model, name, arguments.host, arguments.port)
    print(f"Serving {model} at http://{arguments.host}:{arguments.port}/v1; Ctrl-C ends it.", flush=True)
    os.execv(command[0], command)


if __name__ == "__main__":
    cli.run(main)
