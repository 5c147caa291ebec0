"""A malformed --config ends in one sentence with the right form, and caches find a place without a home."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import preloaded
import pytest
import yaml

from snaketune.core.errors import ConfigError
from snaketune.workflow import command_line
from snaketune.workflow.command_line import check_config_words, config_words, place_caches

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("--config train.learning_rate=1e-4", {"train": {"learning_rate": "1e-4"}}),
        (
            "train --config train.seed=3 train.max_steps=5 split.seed=4",
            {"train": {"seed": 3, "max_steps": 5}, "split": {"seed": 4}},
        ),
        ("-C runs.one.train.seed=3", {"runs": {"one": {"train": {"seed": 3}}}}),
        ("--config 'train={seed: 3}' train.max_steps=5", {"train": {"seed": 3, "max_steps": 5}}),
        ("--config 'model.name_or_path=a: b'", {"model": {"name_or_path": "a: b"}}),
        ("--config data.sources=[a.jsonl]", {"data": {"sources": ["a.jsonl"]}}),
        ("--config prune=yes --config 'train={seed: 3}'", {"prune": True, "train": {"seed": 3}}),
        ("--config 'train={seed:3}'", {"train": {"seed": 3}}),
    ],
)
def test_the_right_form_is_said_and_is_right(line, right):
    with pytest.raises(ConfigError) as error:
        check_config_words(config_words(shlex.split(line)))
    said = shlex.split(str(error.value).rpartition("write --config ")[2])
    check_config_words([said])
    assert {word.partition("=")[0]: yaml.safe_load(word.partition("=")[2]) for word in said} == right


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--config train", "'train' has no `=`"),
        ("--config 'train={seed: 3}' train", "put targets before --config"),
        ("--config train={seed: 3}", "the shell has split 'train={seed: 3}' at its spaces"),
        ("--config 'train={seed: 3'", "cannot be read as YAML"),
        ("--config =3", "'' is not a name"),
        ("--config a=3", "'a' is not a name"),
        ("--config train:seed=3", "'train:seed' is not a name"),
    ],
)
def test_what_cannot_be_read_is_named(line, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        check_config_words(config_words(shlex.split(line)))


@pytest.mark.parametrize(
    "line",
    [
        "train",
        "--config 'train={seed: 3}' prune=yes",
        "--config -n",
        "--config compare=[a,b] --cores 2 train",
        "-- --config a",
    ],
)
def test_what_is_right_passes(line):
    check_config_words(config_words(shlex.split(line)))


def test_caches_go_to_the_project_without_a_home(tmp_path):
    (tmp_path / "file").touch()
    environment = {"HOME": str(tmp_path / "file" / "home"), "USER": "one"}
    place_caches(environment, tmp_path / "cache")
    assert environment["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    assert environment["TRITON_HOME"].startswith(str(tmp_path / "cache"))


def test_a_home_that_takes_files_stays(tmp_path):
    environment = {"HOME": str(tmp_path), "USER": "one"}
    place_caches(environment, tmp_path / "cache")
    assert environment == {"HOME": str(tmp_path), "USER": "one"}


def closed(monkeypatch, folder):
    """Let nothing be created in a folder, as where it is another user's."""
    real = tempfile.mkdtemp

    def refuse(suffix=None, prefix=None, dir=None):
        if Path(dir).is_relative_to(folder):
            raise PermissionError(13, "Permission denied", str(dir))
        return real(suffix, prefix, dir)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)


def test_own_caches_and_the_token_of_a_read_only_cache_stay(tmp_path, monkeypatch):
    token = tmp_path / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.touch()
    closed(monkeypatch, tmp_path / ".cache")
    environment = {"HOME": str(tmp_path), "USER": "one"}
    place_caches(environment, tmp_path / "cache")
    assert environment["HF_TOKEN_PATH"] == str(token)
    assert "TRITON_HOME" not in environment


@pytest.mark.parametrize("kind", ["of the kernel", "a link to nothing", "through a file", "of another user"])
def test_a_cache_in_which_nothing_can_be_created_is_replaced(tmp_path, monkeypatch, kind):
    cache = Path("/proc/nowhere") if kind == "of the kernel" else tmp_path / "own"
    if kind == "a link to nothing":
        cache.symlink_to(tmp_path / "nowhere")
    elif kind == "through a file":
        cache.touch()
    elif kind == "of another user":
        (cache / "snakemake").mkdir(parents=True)
        closed(monkeypatch, cache / "snakemake")
    environment = {"HOME": str(tmp_path), "USER": "one", "XDG_CACHE_HOME": str(cache)}
    place_caches(environment, tmp_path / "cache")
    assert environment["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    # What was downloaded from the hub stays in use where only Snakemake's folder is closed.
    assert environment.get("HF_HOME") == (str(cache / "huggingface") if kind == "of another user" else None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ([] if kind == "of the kernel" else ["own"])


def test_snakemake_says_it_before_its_traceback(tmp_path):
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--config", "train.learning_rate=1e-4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HOME": "/dev/null/x"})
    assert done.returncode == ConfigError.exit_code
    assert done.stderr.splitlines()[-1].endswith("write --config 'train={learning_rate: 1e-4}'")
    assert "Traceback" not in done.stderr


def test_a_module_of_another_workflow_is_one_sentence(tmp_path):
    (tmp_path / "Snakefile").write_text(
        f'module tune:\n    snakefile: "{ROOT}/Snakefile"\n\nuse rule * from tune as tune_*\n'
    )
    command = [preloaded.programs() / "snakemake", "-n", "--cores", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == ConfigError.exit_code
    assert "cannot be a `module` of another workflow" in done.stderr
    assert f"cd {ROOT} && snakemake --cores {{threads}} train" in done.stderr
    assert "Traceback" not in done.stderr and "ModuleNotFoundError" not in done.stderr


def test_a_user_without_a_name_gets_one(tmp_path, monkeypatch):
    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    environment = {"HOME": str(tmp_path)}
    place_caches(environment, tmp_path / "cache")
    assert environment["LOGNAME"] == str(os.getuid())
    place_caches(environment := {}, tmp_path / "cache")
    assert environment["XDG_CACHE_HOME"] == str(tmp_path / "cache")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_any_job_is_one_sentence(number):
    code = (
        "import os, sys, signal, types; sys.path.insert(0, 'scripts')\n"
        "from pathlib import Path\n"
        "from snaketune.workflow.command_line import prepare\n"
        "from snaketune.workflow.snakemake_internals import Snakemake\n"
        "from snaketune.workflow.stopping import end_on_signals\n"
        "prepare([])\n"
        "workflow = types.SimpleNamespace(_scheduler=None, is_main_process=True)\n"
        "if sys.argv[1] == '15': end_on_signals(Snakemake(workflow), Path('scripts'))\n"
        "os.kill(os.getpid(), int(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(int(number))], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 128 + number
    assert done.stderr == f"{number.name} received before any job was started.\n"


def test_a_configuration_file_that_expands_without_end_is_a_sentence_before_snakemake_reads_it(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(command_line.signal, "signal", lambda *arguments: None)
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text("a0: &a0 {k: x}\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)))
    for words in (["--configfile", str(bomb), "--cores", "2"], [f"--configfile={bomb}"]):
        assert command_line.config_files(words) == [str(bomb)]
        with pytest.raises(SystemExit):
            command_line.prepare(words, {"HOME": str(tmp_path)})
        assert "with its aliases (*name) written out" in capsys.readouterr().err
    assert command_line.config_files(["--configfile", str(tmp_path / "none.yaml"), "train"]) == []
