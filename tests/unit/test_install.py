"""envs/install.sh decides rightly what to install: played with a stand-in for Python that notes what it is asked."""

import os
import shutil
import signal
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

# Plays `python`, the environment's python and its pip. $WHEELS says where the CPU build is found, $SLOW how long each
# step takes, $KILL before which step all of the installation is killed.
# An environment is whole when .venv/whole is there, as the last step of the last installation writes it.
PYTHON = r"""#!/bin/bash
step() {
    [ -z "${SLOW:-}" ] || sleep "$SLOW"
    [ -n "${KILL:-}" ] || return 0
    echo >>"$STEPS"
    [ "$(grep -c '' "$STEPS")" -lt "$KILL" ] || kill -9 0
}
case "$0" in */tools/rm | */tools/touch) step; PATH=$REAL "${0##*/}" "$@"; exit ;; esac
[ -z "${PYTHONHOME:-}${PYTHONPATH:-}" ] || exit 1
case "$*" in
    *"-m venv"*)
        case "$0" in *.venv/bin/*) exit 1 ;; esac
        [ -z "${COMPLAINT:-}" ] || [ "$WHEELS" != novenv ] || { echo "Error: $COMPLAINT"; exit 1; }
        mkdir -p .venv/bin; step
        cp "$0" .venv/bin/python; step
        cp "$0" .venv/bin/python3; step
        touch .venv/pip; step
        printf '#!%s/.venv/bin/python\n' "$(pwd -P)" >.venv/bin/pip; step ;;
    *"pip config list"*) [ "${PIP_CONFIG_FILE:-}" != damaged ] || { echo "could not be loaded" >&2; exit 1; } ;;
    *"pip config get"*) exit 1 ;;
    *"pip install"*)
        [ -e .venv/pip ] && [ "${PIP_CONFIG_FILE:-}" != damaged ] || exit 1
        if [ "$PIP_USER" != 0 ] || [ -n "${PIP_TARGET:-}${PIP_NO_INDEX:-}${PIP_REQUIRE_VIRTUALENV:-}" ]; then
            echo "ERROR: settings of the shell" >&2; exit 1
        fi
        echo "${*#*pip install }" >>"$CALLS"
        case "$*" in
            *"+cpu --index-url"*) [ "$WHEELS" = index ] ;;
            *"+cu126 --index-url"*) [ "$WHEELS" != older ] ;;
            *"+cu126"*) [ "$WHEELS" = own ] ;;
            *"torch=="*"+cpu"*) [ "$WHEELS" = own ] || { echo "${COMPLAINT:-none}"; false; } ;;
            *) [ "$WHEELS" != broken ] || { printf '%s\n' "$COMPLAINT" >&2; exit 1; } ;;
        esac || exit 1
        mkdir .venv/busy || { echo "ERROR: two at once" >&2; exit 1; }
        touch .venv/half; step
        case "$*" in
            *"torch=="*"+cpu"*) echo "$TORCH_PIN+cpu" >.venv/torch ;;
            *"torch=="*"+cu126"*) echo "$TORCH_PIN+cu126" >.venv/torch ;;
            *) [ -e .venv/torch ] || echo "$TORCH_PIN" >.venv/torch; step; touch .venv/whole ;;
        esac
        rm .venv/half; rm -r .venv/busy ;;
    *'version("torch")'*) cat .venv/torch ;;
    *compileall*) # some package has a template that is no Python
        step; echo half >.venv/compiled; step; echo "$*" >.venv/compiled; step; exit 1 ;;
    *"import numpy"*) [ -e .venv/whole ] && [ ! -e .venv/half ] ;;
    *"import pip"*) [ -e .venv/pip ] ;;
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
    names = "bash cat cksum cp cut df dirname find flock grep head mkdir rm sed sleep sort tail touch tr uname"
    for name in filter(shutil.which, names.split()):
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


def add_driver(place, version, *capabilities):
    """A driver of some age with cards of some generations."""
    lines = "".join(f"echo '{version}, {capability}'\n" for capability in capabilities)
    listing = "echo 'GPU 0: NVIDIA (UUID: GPU-1)'"
    write_tool(place / "tools" / "nvidia-smi", f'#!/bin/bash\n[ "$1" != -L ] || {{ {listing}; exit; }}\n{lines}')


linux = pytest.mark.skipif(os.uname().sysname != "Linux", reason="CPU builds are chosen on Linux only")


@linux
def test_cpu_build_comes_from_own_sources_first(place):
    done, calls = install(place, WHEELS="own")
    assert done.returncode == 0, done.stderr
    assert [f"torch=={PIN}+cpu" in call for call in calls] == [True, False]
    assert CPU_INDEX not in calls[0]
    assert calls[1].endswith("-r envs/requirements.txt -c constraints.txt")


def test_packages_are_compiled_on_every_core_and_not_by_pip(place):
    done, calls = install(place)
    assert done.returncode == 0, done.stderr
    assert all("--no-compile" in call for call in calls)
    assert (place / ".venv" / "compiled").read_text().split() == ["-m", "compileall", "-q", "-j", "0", ".venv/lib"]


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


@pytest.mark.parametrize(
    ("version", "capabilities", "build"),
    [
        ("580.95.05", ["8.9"], "ordinary"),
        ("610.10", ["12.0", "7.5"], "ordinary"),
        ("535.183.01", ["8.9"], "older"),
        ("570.86.10", ["9.0", "9.0"], "older"),
        ("580.95.05", ["7.0"], "older"),
        ("580.95.05", ["9.0", "6.1"], "older"),
        ("470.256.02", ["8.0"], "driver 470.256.02 is too old"),
        ("570.86.10", ["12.0"], "driver 570.86.10 is too old for torch"),
        ("[N/A]", ["[N/A]"], "ordinary"),
    ],
)
def test_the_build_of_torch_fits_the_driver_and_the_oldest_card(place, version, capabilities, build):
    add_driver(place, version, *capabilities)
    done, calls = install(place, WHEELS="none")
    if build not in ("ordinary", "older"):
        assert (done.returncode, calls) == (1, [])
        assert build in done.stderr and done.stderr.count("\n") == 1
        return
    assert done.returncode == 0, done.stderr
    asked = [call for call in calls if "+cu126" in call]
    assert len(asked) == (2 if build == "older" else 0)
    assert all("-r envs/requirements.txt" not in call for call in asked)
    assert "--index-url https://download.pytorch.org/whl/cu126" in "".join(asked) or build == "ordinary"
    assert f"torch!={PIN}+cpu" in calls[-1] and calls[-1].endswith("-c constraints.txt")
    assert install(place)[1] == []


def test_a_login_node_can_ask_for_the_older_build_and_a_missing_one_is_a_sentence(place):
    done, calls = install(place, WHEELS="own", SNAKETUNE_TORCH="cu126")
    assert done.returncode == 0, done.stderr
    assert [f"torch=={PIN}+cu126" in call for call in calls] == [True, False]
    shutil.rmtree(place / ".venv")
    done, _ = install(place, WHEELS="older", SNAKETUNE_TORCH="cu126")
    assert done.returncode == 1
    assert "for CUDA 12.6 cannot be reached: update the NVIDIA driver to 580" in done.stderr


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
    assert "Recreating" not in done.stdout
    assert (place / ".venv" / "own-package").exists()
    assert len(list((place / ".venv").glob(".snaketune-*"))) == 1


def test_interrupted_installation_starts_anew(place):
    done, _ = install(place, WHEELS="broken", COMPLAINT="ERROR: no space left")
    assert done.returncode == 1
    done, calls = install(place)
    assert "its last installation was interrupted" in done.stdout
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
        ({"WHEELS": "broken", "COMPLAINT": "ERROR: no space left on device"}, "ERROR: no space left on device ("),
        ({"WHEELS": "broken", "COMPLAINT": "what went wrong\n\n"}, "could not be installed: what went wrong ("),
        ({"WHEELS": "broken", "COMPLAINT": ""}, "could not be installed: "),
        ({"WHEELS": "novenv", "COMPLAINT": "[Errno 28] No space left"}, ".venv could not be made: Error: [Errno 28]"),
        ({"WHEELS": "torch", "COMPLAINT": "No space left on device"}, "torch could not be installed: No space left"),
        ({"PYTHON": ".venv/bin/python"}, "PYTHON=.venv/bin/python"),
        ({"SNAKETUNE_TORCH": "rocm"}, "SNAKETUNE_TORCH=rocm is not known"),
    ],
)
def test_each_failure_is_one_sentence(place, variables, sentence):
    done, _ = install(place, **variables)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


OLD = '#!/bin/bash\ncase "$*" in *sys.version_info*) exit 1 ;; esac\n'


def venv_as(kind, place):
    """Put an environment of another making in place."""
    venv = place / ".venv"
    match kind:
        case "a link to nothing":
            venv.symlink_to(place / "nowhere")
        case "a link to another project's":
            (place / "other").mkdir()
            (place / "other" / "kept").touch()
            venv.symlink_to(place / "other")
        case "an empty folder":
            venv.mkdir()
        case "without pip":
            (venv / "bin").mkdir(parents=True)
            write_tool(venv / "bin" / "python", PYTHON)
            write_tool(venv / "bin" / "python3", PYTHON)
        case "of Python 3.9":
            (venv / "bin").mkdir(parents=True)
            write_tool(venv / "bin" / "python", OLD)
            write_tool(venv / "bin" / "python3", OLD)
            write_tool(venv / "bin" / "pip", f"#!{place.resolve()}/.venv/bin/python\n")
        case "of a removed Python":
            (venv / "bin").mkdir(parents=True)
            (venv / "bin" / "python").symlink_to("/nowhere/python3")
        case "copied":
            assert install(place)[0].returncode == 0
            (venv / "bin" / "pip").write_text("#!/elsewhere/.venv/bin/python\n")


@pytest.mark.parametrize(
    "kind",
    [
        "a link to nothing",
        "a link to another project's",
        "an empty folder",
        "without pip",
        "of Python 3.9",
        "of a removed Python",
        "copied",
    ],
)
def test_one_command_replaces_what_cannot_be_used(place, kind):
    venv_as(kind, place)
    # make puts the environment's programs first.
    done, _ = install(place, PATH=f"{place}/.venv/bin:{place}/tools")
    assert done.returncode == 0, done.stderr
    assert (place / ".venv" / "whole").exists()
    assert not (place / ".venv").is_symlink()
    if kind == "a link to another project's":
        assert (place / "other" / "kept").exists()
    assert install(place)[1] == []


def test_a_file_in_its_place_is_not_removed(place):
    (place / ".venv").write_text("the name of an environment")
    done, _ = install(place)
    assert ".venv is a file: move it away" in done.stderr
    assert (place / ".venv").is_file()


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONHOME": "/nowhere"},
        {"PYTHONPATH": "/nowhere"},
        {"PIP_USER": "1"},
        {"PIP_TARGET": "/nowhere"},
        {"PIP_NO_INDEX": "1"},
        {"PIP_REQUIRE_VIRTUALENV": "1", "PIP_NO_DEPS": "1"},
        {"PIP_CONFIG_FILE": "damaged"},
        {"HOME": "/dev/null/home"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_settings_of_the_shell_do_not_reach_it(place, variables):
    done, _ = install(place, **variables)
    assert done.returncode == 0, done.stderr
    assert ("pip's settings cannot be read" in done.stdout) == ("PIP_CONFIG_FILE" in variables)


def test_uv_does_not_see_them_either(place):
    (place / "tools" / "env").symlink_to(shutil.which("env"))
    write_tool(place / "tools" / "uv", '#!/bin/bash\nenv | grep ^UV_ >>"$CALLS"\ntouch .venv/whole\n')
    settings = {"UV_SYSTEM_PYTHON": "1", "UV_TARGET": "/nowhere", "UV_NO_INDEX": "1", "UV_INDEX_URL": "https://own"}
    done, calls = install(place, **settings)
    assert done.returncode == 0, done.stderr
    assert {call.partition("=")[0] for call in calls} <= {"UV_INDEX_URL", "UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES"}


def begin(place, **variables):
    environment = {"PATH": f"{place}/.venv/bin:{place}/tools", "CALLS": os.devnull, "TORCH_PIN": PIN, "WHEELS": "own"}
    return subprocess.Popen(
        ["bash", "envs/install.sh"],
        cwd=place,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_before(place, step):
    """Install and kill all of it before a step; return whether there was such a step."""
    (place / "steps").unlink(missing_ok=True)
    own = {"KILL": str(step), "STEPS": str(place / "steps"), "REAL": os.environ["PATH"]}
    process = begin(place, **own)
    process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def stamped(place):
    return [path.name for path in (place / ".venv").glob(".snaketune-[0-9]*")]


def test_killed_before_any_step_the_same_command_heals(place):
    """Steps are those of making the environment, of pip, of compiling, and each removal and creation of a mark."""
    for name in ("rm", "touch"):
        (place / "tools" / name).unlink()
        write_tool(place / "tools" / name, PYTHON)
    step = 1
    while kill_before(place, step):
        compiled = place / ".venv" / "compiled"
        assert not stamped(place) or ((place / ".venv" / "whole").exists() and compiled.exists())
        done, _ = install(place, WHEELS="own", REAL=os.environ["PATH"], PATH=f"{place}/.venv/bin:{place}/tools")
        assert done.returncode == 0, (step, done.stderr)
        assert (place / ".venv" / "whole").exists() and compiled.read_text() != "half\n"
        assert len(stamped(place)) == 1
        shutil.rmtree(place / ".venv")
        step += 1
    assert step > 12


@pytest.mark.skipif(not shutil.which("flock"), reason="one installation at a time needs flock(1)")
def test_of_two_at_once_one_waits_and_finds_it_done(place):
    both = [begin(place, SLOW="0.1"), begin(place, SLOW="0.1")]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("waiting for it" in output for output, _ in outputs) == 1
    assert sum("Done:" in output for output, _ in outputs) == 1
