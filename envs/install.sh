#!/usr/bin/env bash
# Make .venv with the pinned packages. Usage: bash envs/install.sh [--dev]
#
# Nothing happens when .venv already holds what constraints.txt and the requirements ask for.
# PYTHON=/path/to/python3 chooses the interpreter. SNAKETUNE_TORCH=cpu or =gpu overrules the look for a GPU, for a
# login node that installs what a GPU node will use.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)
unfinished=.venv/.snaketune-unfinished
log=.venv/install.log
torch_log=.venv/install-torch.log
cpu_index=https://download.pytorch.org/whl/cpu

# With this set, uv would leave no bytecode and every stage would compile its imports again: 20 s instead of 5 s.
unset PYTHONDONTWRITEBYTECODE

say() { printf 'install: %s\n' "$*"; }

stop() {
    printf 'install: %s\n' "$*" >&2
    exit 1
}

digest() { cat "$@" | cksum | tr -s ' \n' '-' | sed 's/-*$//'; }

suitable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        suitable "$PYTHON" || stop "PYTHON=$PYTHON does not run as Python 3.11, 3.12 or 3.13: name one that does, or unset it."
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        # A name on PATH may be a shim that only prints an error, so each candidate is run.
        if suitable "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    stop "No Python 3.11, 3.12 or 3.13 was found: install one, or name it with PYTHON=/path/to/python3."
}

# Why the present .venv cannot be used, or nothing when it can.
fault() {
    if [ ! -e .venv ]; then
        echo "there is none"
    elif [ -e "$unfinished" ]; then
        echo "its last installation was cut short"
    elif ! suitable .venv/bin/python; then
        echo "its Python does not start or is not 3.11, 3.12 or 3.13"
    elif ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        echo "it has no pip"
    elif ! head -n 3 .venv/bin/pip 2>/dev/null | grep -qF "$root/.venv/"; then
        echo "it was made in another folder"
    elif [ "$(uname -s)" = Linux ] && [[ "$(torch_version)" = *+cpu ]] && gpu_wanted; then
        # pip takes the CPU build for the pinned version, so only a new environment gets rid of it.
        echo "its torch is the CPU build and this machine has a GPU"
    fi
}

gpu_wanted() {
    case "${SNAKETUNE_TORCH:-auto}" in
        gpu) return 0 ;;
        cpu) return 1 ;;
        auto) nvidia-smi -L 2>/dev/null | grep -q '^GPU ' ;;
        *) stop "SNAKETUNE_TORCH=$SNAKETUNE_TORCH is not known: use cpu, gpu or auto." ;;
    esac
}

torch_version() {
    .venv/bin/python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true
}

make_environment() {
    local python error
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        stop "$python cannot make virtual environments: install its venv module (Debian and Ubuntu: apt-get install python3-venv)."
    [ ! -e .venv ] || say "Making .venv anew: $1."
    # Without these a removal that is cut short cannot pass for an environment.
    rm -rf .venv/bin .venv/.snaketune-*
    error=$("$python" -m venv --clear .venv 2>&1) || stop ".venv could not be made: $(printf '%s\n' "$error" | tail -n 1)"
}

# uv reads no pip configuration: hand it the folders of wheels in which pip would look.
share_find_links() {
    local folders=${PIP_FIND_LINKS:-}
    [ -n "$folders" ] || folders=$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)
    folders=$(printf '%s' "$folders" | tr -s ' \n' ',')
    [ -z "$folders" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$folders}"
}

with_uv() { uv pip install --quiet --python .venv/bin/python --compile-bytecode "$@"; }

with_pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input "$@"; }

have_uv() { command -v uv >/dev/null 2>&1; }

# A wheel that may not exist anywhere is asked for once, so that a machine without network notices within seconds.
ask_once() {
    if have_uv; then
        UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=0 with_uv --no-deps "$@"
    else
        with_pip --no-deps --timeout 10 --retries 1 "$@"
    fi
}

# The CPU build has the same version plus a label, so the pin accepts it; it spares a machine without a GPU the
# NVIDIA libraries. The user's own package sources come first, then PyTorch's.
install_cpu_torch() {
    [ "$(torch_version | cut -d + -f 1)" != "$pin" ] || return 0
    ask_once "torch==$pin+cpu" >"$torch_log" 2>&1 && return
    ask_once "torch==$pin+cpu" --index-url "$cpu_index" >>"$torch_log" 2>&1 && return
    say "No CPU build of torch $pin can be reached: the ordinary one follows, with the NVIDIA libraries it depends on."
}

install_requirements() {
    if have_uv; then
        with_uv "$@" >>"$log" 2>&1 && return
        say "uv could not install the packages (see $log): trying pip."
    fi
    with_pip "$@" >>"$log" 2>&1
}

explain_failure() {
    if grep -qiE 'name resolution|NewConnectionError|connection (refused|reset)|timed out|dns error|unreachable' "$log"; then
        stop "No package source answered: check the network, the proxy or pip's index settings, then repeat the command (details: $log)."
    fi
    stop "The packages could not be installed: $(grep -i error "$log" | tail -n 1) (details: $log)"
}

check_imports() {
    local error
    error=$(.venv/bin/python -c 'import numpy, torch; torch.from_numpy(numpy.zeros(1)); import pyarrow, tokenizers, snakemake' 2>&1) ||
        stop "The packages are installed but do not load on this machine: $(printf '%s\n' "$error" | tail -n 1)"
}

dev=no
case "${1:-}" in
    "") ;;
    --dev) dev=yes ;;
    *) stop "Unknown option $1: the only one is --dev." ;;
esac

stamps=(".venv/.snaketune-$(digest constraints.txt envs/requirements.txt)")
wanted=(-r envs/requirements.txt)
if [ "$dev" = yes ]; then
    stamps+=(".venv/.snaketune-dev-$(digest constraints.txt envs/requirements.txt envs/requirements-dev.txt)")
    wanted+=(-r envs/requirements-dev.txt)
fi
reason=$(fault)
if [ -z "$reason" ] && [ -e "${stamps[${#stamps[@]} - 1]}" ]; then
    exit 0
fi

[ -z "$reason" ] || make_environment "$reason"
: >"$unfinished"
: >"$log"
share_find_links
tool=pip
have_uv && tool=uv
say "Installing the pinned packages into .venv with $tool; the first time takes a minute or two."
pin=$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' constraints.txt)
if gpu_wanted; then
    # A folder of wheels may offer the CPU build, which would win and leave the GPU idle.
    wanted+=("torch!=$pin+cpu")
elif [ "$(uname -s)" = Linux ]; then
    install_cpu_torch
fi
install_requirements "${wanted[@]}" -c constraints.txt || explain_failure
check_imports

# The stamps come last: an installation that was cut short is made anew. Stamps of other pins are void.
rm -f .venv/.snaketune-*
touch "${stamps[@]}"
say "Done: $(.venv/bin/python -c 'import platform, torch; print("Python", platform.python_version(), "and torch", torch.__version__)')."
