"""Serving: which model, by which server, and a conversation over OpenAI's protocol where one is installed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_run import conversations, write_run

from snaketune.ask.serving import SERVER_PACKAGES, find_merged, server_command
from snaketune.core.errors import ConfigError


@pytest.fixture
def results(tmp_path):
    for run in ("one", "two"):
        (tmp_path / "runs" / run / "latest" / "merged").mkdir(parents=True)
    return tmp_path


def test_make_serve_passes_port_and_run_on():
    command = subprocess.run(
        ["make", "-n", "serve", "PORT=1", "RUN=two"], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert ".venv/bin/python scripts/serve_model.py --port 1 --run two" in command.stdout.splitlines()


def test_a_reward_model_is_not_served(results):
    config = {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}
    (results / "runs/two/latest/merged/config.json").write_text(json.dumps(config))
    assert find_merged(results, None) == results / "runs/one/latest/merged"
    with pytest.raises(ConfigError, match="the run two is a reward model, which gives scores and no text"):
        find_merged(results, "two")


def test_the_only_model_needs_no_name(results):
    assert find_merged(results, "two") == results / "runs/two/latest/merged"
    with pytest.raises(ConfigError, match="one, two have models: name one as in `make serve RUN=one`"):
        find_merged(results, None)
    shutil.rmtree(results / "runs" / "two")
    assert find_merged(results, None) == results / "runs/one/latest/merged"
    with pytest.raises(ConfigError, match=r"the run two has no merged model in .*: use one of one"):
        find_merged(results, "two")
    with pytest.raises(ConfigError, match="snakemake train"):
        find_merged(results / "nowhere", None)


def test_vllm_comes_first_then_transformers_else_what_to_install():
    there = {"vllm": "/bin/vllm", "transformers": "/bin/transformers"}.get
    found = server_command(Path("m"), "one", "127.0.0.1", 8000, there, lambda name: True)
    assert found == ["/bin/vllm", "serve", "m", "--served-model-name", "one", "--host", "127.0.0.1", "--port", "8000"]
    only = {"transformers": "/bin/transformers"}.get
    assert server_command(Path("m"), "one", "h", 1, only, lambda name: True)[:3] == ["/bin/transformers", "serve", "m"]
    with pytest.raises(ConfigError, match=r"\(openai\) are installed: run `pip install -r envs/extras/serve.txt"):
        server_command(Path("m"), "one", "h", 1, only, lambda name: name != "openai")


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(find_spec, SERVER_PACKAGES)), reason="the packages of `transformers serve` are not installed"
)
def test_transformers_serves_a_conversation(tmp_path):
    run = write_run(tmp_path, conversations(2))
    (run.model / "chat_template.jinja").write_text((run.tokens / "chat_template.jinja").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("transformers"))
    command = server_command(run.model, "one", "127.0.0.1", port, lambda name: program if name != "vllm" else None)
    server = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    asked = {"model": str(run.model), "messages": [{"role": "user", "content": "the lamp"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    try:
        answer = _answer(request, server)
    finally:
        server.terminate()
        server.wait()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["message"]["content"]


def _answer(request, server, seconds=180):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server did not answer (status {server.poll()})")
