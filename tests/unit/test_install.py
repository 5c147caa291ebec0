"""envs/install.sh decides rightly what to install: played with a stand-in for Python that notes what it is asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIN = next(
    line.removeprefix("torch==").split()[0]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.startswith("torch==")
)
CPU_INDEX = "--index-url https://download.pytorch.org/whl/cpu"

# Plays `python`, the environment's python and its pip. $WHEELS says where the CPU build can be had.
PYTHON = r"""#!/bin/bash
case "$*" in
    *"-m venv"*)
        rm -rf .venv && mkdir -p .venv/bin
        cp "$0" .venv/bin/python
        printf '#!%s/.venv/bin/python\n' "$(pwd -P)" >.venv/bin/pip ;;
    *"pip install"*)
        echo "${*#*pip install }" >>"$CALLS"
        case "$*" in
            *"+cpu --index-url"*) [ "$WHEELS" = index ] ;;
            *"torch=="*"+cpu"*) [ "$WHEELS" = own ] ;;
            *) [ "$WHEELS" != broken ] || { echo "ERROR: $COMPLAINT" >&2; exit 1; } ;;
        esac || exit 1
        case "$*" in
            *"torch=="*"+cpu"*) echo "$TORCH_PIN+cpu" >.venv/torch ;;
            *) [ -e .venv/torch ] || echo "$TORCH_PIN" >.venv/torch ;;
        esac ;;
    *'version("torch")'*) cat .venv/torch ;;
    *ensurepip*) [ -z "${NO_VENV:-}" ] ;;
    *sys.version_info*) [ -z "${TOO_OLD:-}" ] ;;
esac
"""


@pytest.fixture
def place(tmp_path):
    """A folder with the files that the script reads, and a PATH with nothing but the stand-in and plain tools."""
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    names = "bash cat cksum cp cut dirname grep head mkdir rm sed tail touch tr uname"
    for name in names.split():
        (tools / name).symlink_to(shutil.which(name))
    write_tool(tools / "python3", PYTHON)
    return tmp_path


def write_tool(path, text):
    path.write_text(text)
    path.chmod(0o755)


def install(place, *options, **variables):
    """Run the script; return its completed process and the pip calls that it made, in order."""
    calls = place / "calls"
    calls.unlink(missing_ok=True)
    environment = {"PATH": str(place / "tools"), "CALLS": str(calls), "TORCH_PIN": PIN, "WHEELS": "none", "LC_ALL": "C"}
    done = subprocess.run(
        ["bash", "envs/install.sh", *options],
        cwd=place,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, calls.read_text().splitlines() if calls.exists() else []


def add_gpu(place):
    write_tool(place / "tools" / "nvidia-smi", "#!/bin/bash\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")


linux = pytest.mark.skipif(os.uname().sysname != "Linux", reason="CPU builds are chosen on Linux only")


@linux
def test_cpu_build_comes_from_own_sources_first(place):
    done, calls = install(place, WHEELS="own")
    assert done.returncode == 0, done.stderr
    assert [f"torch=={PIN}+cpu" in call for call in calls] == [True, False]
    assert CPU_INDEX not in calls[0]
    assert calls[1].endswith("-r envs/requirements.txt -c constraints.txt")


@linux
def test_then_from_the_cpu_index(place):
    done, calls = install(place, WHEELS="index")
    assert done.returncode == 0, done.stderr
    assert [CPU_INDEX in call for call in calls] == [False, True, False]
    assert all("--no-deps" in call and "--timeout 10" in call for call in calls[:2])


@linux
def test_then_the_ordinary_build_and_it_says_so(place):
    done, calls = install(place)
    assert done.returncode == 0, done.stderr
    assert len(calls) == 3
    assert done.stdout.count("No CPU build of torch") == 1


def test_with_a_gpu_the_cpu_build_is_not_even_accepted(place):
    add_gpu(place)
    done, calls = install(place, WHEELS="own")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 1
    assert f"torch!={PIN}+cpu" in calls[0]


@linux
def test_a_gpu_that_appears_replaces_the_cpu_build_once(place):
    install(place, WHEELS="own")
    add_gpu(place)
    done, calls = install(place, WHEELS="own")
    assert "the CPU build and this machine has a GPU" in done.stdout
    assert len(calls) == 1
    assert install(place, WHEELS="own")[1] == []


@linux
def test_login_node_can_ask_for_the_gpu_build(place):
    calls = install(place, WHEELS="own", SNAKETUNE_TORCH="gpu")[1]
    assert [f"torch=={PIN}+cpu" in call for call in calls] == [False]
    assert install(place, WHEELS="own")[1] == []


def test_second_call_does_nothing_and_dev_serves_both(place):
    install(place, "--dev")
    for options in ([], ["--dev"]):
        done, calls = install(place, *options)
        assert (done.returncode, done.stdout, calls) == (0, "", [])


def test_dev_adds_to_a_plain_environment(place):
    install(place)
    calls = install(place, "--dev")[1]
    assert calls[-1].endswith("-r envs/requirements.txt -r envs/requirements-dev.txt -c constraints.txt")


def test_changed_pins_install_again_in_place(place):
    install(place)
    (place / ".venv" / "own-package").touch()
    with open(place / "constraints.txt", "a") as constraints:
        constraints.write("# another day\n")
    done, calls = install(place)
    assert calls
    assert "anew" not in done.stdout
    assert (place / ".venv" / "own-package").exists()
    assert len(list((place / ".venv").glob(".snaketune-*"))) == 1


def test_interrupted_installation_starts_anew(place):
    done, _ = install(place, WHEELS="broken", COMPLAINT="no space left on device")
    assert done.returncode == 1
    done, calls = install(place)
    assert "its last installation was cut short" in done.stdout
    assert done.returncode == 0
    assert calls


def test_moved_environment_is_made_anew(place, tmp_path_factory):
    install(place)
    moved = tmp_path_factory.mktemp("moved") / "here"
    shutil.move(place, moved)
    assert "it was made in another folder" in install(moved)[0].stdout


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"TOO_OLD": "yes"}, "No Python 3.11, 3.12 or 3.13 was found"),
        ({"PYTHON": "/nowhere/python"}, "PYTHON=/nowhere/python does not run as Python 3.11"),
        ({"NO_VENV": "yes"}, "apt-get install python3-venv"),
        ({"WHEELS": "broken", "COMPLAINT": "Temporary failure in name resolution"}, "No package source answered"),
        ({"WHEELS": "broken", "COMPLAINT": "no space left on device"}, "ERROR: no space left on device"),
        ({"SNAKETUNE_TORCH": "rocm"}, "SNAKETUNE_TORCH=rocm is not known"),
    ],
)
def test_each_failure_is_one_sentence(place, variables, sentence):
    done, _ = install(place, **variables)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
