#!/usr/bin/env bash
# Make .venv with the pinned packages. Usage: bash envs/install.sh [--dev]
#
# Nothing happens when .venv already holds what constraints.txt and the requirements ask for.
# PYTHON=/path/to/python3 chooses the interpreter. SNAKETUNE_TORCH=cpu or =gpu overrules the look for a GPU, for a
# login node that installs what a GPU node will use; =cu126 asks for the build for older drivers and cards.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)
unfinished=.venv/.snaketune-unfinished
log=.venv/install.log
torch_log=.venv/install-torch.log
local_trouble='no space left|disk quota|permission denied|read-only file system|input/output error'
cpu_index=https://download.pytorch.org/whl/cpu
# The ordinary build of the pinned torch is for CUDA 13: drivers from 580 on, cards from Turing (7.5) on. PyTorch has
# the same version for CUDA 12.6, too: drivers from 525 on, cards from Maxwell (5.0) to Hopper (9.0).
older=cu126
older_index=https://download.pytorch.org/whl/$older
driver_needed=580
driver_needed_by_older=525

say() { printf 'install: %s\n' "$*"; }

stop() {
    printf 'install: %s\n' "$*" >&2
    exit 1
}

# What a shell may say to Python, pip and uv that would send packages elsewhere, leave some out or build others.
# Sources, certificates, caches and patience stay.
forget_settings() {
    local name
    for name in $(compgen -e); do
        case "$name" in
            PIP_INDEX_URL | PIP_EXTRA_INDEX_URL | PIP_FIND_LINKS | PIP_TRUSTED_HOST | PIP_PROXY | PIP_CERT) ;;
            PIP_CLIENT_CERT | PIP_KEYRING_PROVIDER | PIP_CONFIG_FILE | PIP_CACHE_DIR | PIP_NO_CACHE_DIR) ;;
            PIP_TIMEOUT | PIP_DEFAULT_TIMEOUT | PIP_RETRIES | PIP_USE_FEATURE | PIP_USE_DEPRECATED) ;;
            PIP_NO_INDEX | UV_NO_INDEX) ;; # see share_find_links
            UV_INDEX | UV_INDEX_* | UV_DEFAULT_INDEX | UV_EXTRA_INDEX_URL | UV_FIND_LINKS | UV_INSECURE_HOST) ;;
            UV_NATIVE_TLS | UV_SYSTEM_CERTS | UV_KEYRING_PROVIDER | UV_CREDENTIALS_DIR | UV_CONFIG_FILE) ;;
            UV_CACHE_DIR | UV_NO_CACHE | UV_HTTP_* | UV_REQUEST_TIMEOUT | UV_CONCURRENT_* | UV_LINK_MODE | UV_OFFLINE) ;;
            # PYTHONDONTWRITEBYTECODE: every stage would compile its imports again, 20 s instead of 5 s.
            PIP_* | UV_* | PYTHONHOME | PYTHONPATH | PYTHONUSERBASE | PYTHONSAFEPATH | PYTHONPLATLIBDIR) unset "$name" ;;
            PYTHONWARNINGS | PYTHONOPTIMIZE | PYTHONINSPECT | PYTHONDONTWRITEBYTECODE | __PYVENV_LAUNCHER__) unset "$name" ;;
        esac
    done
    # pip's configuration may ask for the first of these, too.
    export PIP_USER=0 PYTHONNOUSERSITE=1
    name=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
    if [ -z "$name" ] || ! mkdir -p "$name" 2>/dev/null; then export XDG_CACHE_HOME=$root/work/cache; fi
}

# One installation at a time. Tools that outlive a killed one hold the lock until they have ended, too.
take_turn() {
    command -v flock >/dev/null 2>&1 || return 0
    exec 9<envs/install.sh
    flock --nonblock 9 2>/dev/null && return
    [ "$(flock --nonblock 9 2>&1)" = "" ] || return 0 # this disk has no locks
    say "Another installation is running in this folder: waiting for it."
    flock 9
}

free_space() { df -Pk . 2>/dev/null | tail -n 1 | (read -r _ _ _ free _ && printf '%s MB are free here' "$((free / 1024))") || true; }

# The last error in a log, else its last line.
last_error() {
    local found
    found=$(grep -iE 'error|caused by|no space|denied|failed' "$1" 2>/dev/null | tail -n 1 || true)
    [ -n "$found" ] || found=$(grep -v '^ *$' "$1" 2>/dev/null | tail -n 1 || true)
    printf '%s' "${found:-no reason was given}" | tr -s ' \t' ' '
}

digest() { cat "$@" | cksum | tr -s ' \n' '-' | sed 's/-*$//'; }

suitable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

# The environment itself is not a candidate, and it is first on PATH under make: it may be about to be removed.
find_python() {
    local name folder candidate IFS=:
    if [ -n "${PYTHON:-}" ]; then
        suitable "$PYTHON" || stop "PYTHON=$PYTHON does not run as Python 3.11, 3.12 or 3.13: name one that does, or unset it."
        case "$(command -v "$PYTHON")" in
            "$root"/.venv/* | .venv/* | ./.venv/*)
                stop "PYTHON=$PYTHON is the environment that is to be made: name the Python that it is made with, or unset it." ;;
        esac
        command -v "$PYTHON"
        return
    fi
    for name in python3 python3.13 python3.12 python3.11; do
        for folder in $PATH; do
            candidate=$folder/$name
            # A name on PATH may be a shim that only prints an error, so each candidate is run.
            if [ "$folder" -ef .venv/bin ] || [ ! -x "$candidate" ] || ! suitable "$candidate"; then continue; fi
            printf '%s\n' "$candidate"
            return
        done
    done
    stop "No Python 3.11, 3.12 or 3.13 was found: install one, or name it with PYTHON=/path/to/python3."
}

# Why the present .venv cannot be used, or nothing when it can.
fault() {
    if [ ! -e .venv ] && [ ! -L .venv ]; then
        echo "it does not exist"
    elif [ -L .venv ] && [ ! -d .venv/. ]; then
        echo "it is a dangling link"
    elif [ -e "$unfinished" ]; then
        echo "its last installation was interrupted"
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
        gpu | "$older") return 0 ;;
        cpu) return 1 ;;
        auto) nvidia-smi -L 2>/dev/null | grep -q '^GPU ' ;;
        *) stop "SNAKETUNE_TORCH=$SNAKETUNE_TORCH is not known: use cpu, gpu, $older or auto." ;;
    esac
}

# What the driver and the oldest card ask for: "ordinary", the name of the older build, or a reason why neither works.
suitable_build() {
    local answer driver card
    [ "${SNAKETUNE_TORCH:-auto}" != "$older" ] || { echo "$older"; return; }
    answer=$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null | tr -d ' ' || true)
    driver=$(printf '%s\n' "$answer" | head -n 1 | cut -d , -f 1)
    card=$(printf '%s\n' "$answer" | cut -d , -f 2 | tr -d . | sort -n | head -n 1)
    case "${driver%%.*}" in "" | *[!0-9]*) echo ordinary; return ;; esac # a login node, or a driver that says nothing
    case "$card" in "" | *[!0-9]*) card=75 ;; esac
    if [ "${driver%%.*}" -lt "$driver_needed_by_older" ]; then
        echo "The NVIDIA driver $driver is too old for torch $pin: it needs $driver_needed, and its build for CUDA 12.6 needs $driver_needed_by_older: update the driver, or set SNAKETUNE_TORCH=cpu."
    elif [ "${driver%%.*}" -lt "$driver_needed" ] && [ "$card" -ge 100 ]; then
        echo "The NVIDIA driver $driver is too old for torch $pin on this GPU: it needs $driver_needed: update the driver, or set SNAKETUNE_TORCH=cpu."
    elif [ "${driver%%.*}" -lt "$driver_needed" ] || [ "$card" -lt 75 ]; then
        echo "$older"
    else
        echo ordinary
    fi
}

# With the libraries that it depends on, other than the CPU build. The user's own package sources come first.
install_older_torch() {
    [ "$(torch_version)" != "$pin+$older" ] || return 0
    say "This driver or GPU is too old for the default build of torch $pin: installing its build for CUDA 12.6."
    install_requirements "torch==$pin+$older" && return
    install_requirements "torch==$pin+$older" --index-url "$older_index" && return
    stop "torch $pin for CUDA 12.6 cannot be reached: update the NVIDIA driver to $driver_needed, or set SNAKETUNE_TORCH=cpu (details: $log)."
}

torch_version() {
    .venv/bin/python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true
}

make_environment() {
    local python error
    python=$(find_python)
    error=$("$python" -c 'import ensurepip, venv' 2>&1) ||
        stop "$python cannot make virtual environments: install its venv module (Debian and Ubuntu: apt-get install python3-venv)."
    if [ -e .venv ] || [ -L .venv ]; then say "Recreating .venv: $1."; fi
    # Of a link only the link goes: what it leads to may be another project's.
    if [ -L .venv ]; then rm -f .venv || stop "The link .venv cannot be removed: do that, then repeat the command."; fi
    if [ -e .venv ] && [ ! -d .venv ]; then stop ".venv is a file: move it away, then repeat the command."; fi
    # Without these an interrupted removal cannot pass for an environment.
    rm -rf .venv/bin .venv/.snaketune-[0-9d]* 2>/dev/null || true
    error=$(mkdir -p .venv 2>&1 && { : >"$unfinished"; } 2>&1) ||
        stop ".venv cannot be written ($error): free space or fix permissions ($(free_space))."
    error=$(find .venv -mindepth 1 -maxdepth 1 ! -name "${unfinished##*/}" -exec rm -rf {} + 2>&1) ||
        stop ".venv cannot be emptied ($(printf '%s\n' "$error" | tail -n 1)): remove it, then repeat the command."
    error=$("$python" -m venv .venv 2>&1) ||
        stop ".venv could not be made: $(printf '%s\n' "$error" | tail -n 1) ($(free_space))."
}

# pip ends in an error over its configuration before it does anything.
check_pip_settings() {
    local error
    error=$(.venv/bin/python -m pip config list 2>&1 >/dev/null) && return
    say "pip's settings cannot be read and are left out ($(printf '%s\n' "$error" | tail -n 1))."
    export PIP_CONFIG_FILE=/dev/null
}

# uv reads no pip configuration: hand it the folders of wheels in which pip would look. Without any, nothing can be
# installed without an index.
share_find_links() {
    local folders=${PIP_FIND_LINKS:-}
    [ -n "$folders" ] || folders=$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)
    folders=$(printf '%s' "$folders" | tr -s ' \n' ',')
    if [ -z "$folders${UV_FIND_LINKS:-}" ]; then
        unset PIP_NO_INDEX UV_NO_INDEX
    else
        export UV_FIND_LINKS="${UV_FIND_LINKS:-$folders}"
    fi
}

with_uv() { uv pip install --quiet --python .venv/bin/python --compile-bytecode "$@"; }

with_pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile "$@"; }

# pip compiles one file after the other, which is half of its time: here every core does. What does not compile, such
# as a template, is left as pip leaves it; what is missing is compiled when it is imported.
compile_packages() { .venv/bin/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true; }

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
    if grep -qiE "$local_trouble" "$torch_log"; then
        stop "torch could not be installed: $(last_error "$torch_log") ($(free_space); details: $torch_log)."
    fi
    say "No CPU build of torch $pin can be reached: installing the default build, with the NVIDIA libraries that it depends on."
}

install_requirements() {
    if have_uv; then
        with_uv "$@" >>"$log" 2>&1 && return
        say "uv could not install the packages (see $log): trying pip."
    fi
    with_pip "$@" >>"$log" 2>&1
}

explain_failure() {
    if ! grep -qiE "$local_trouble" "$log" && grep -qiE 'name resolution|NewConnectionError|connection (refused|reset)|timed out|dns error|unreachable' "$log"; then
        stop "No package source answered: check the network, the proxy or pip's index settings, then repeat the command (details: $log)."
    fi
    stop "The packages could not be installed: $(last_error "$log") ($(free_space); details: $log)"
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

forget_settings
stamps=(".venv/.snaketune-$(digest constraints.txt envs/requirements.txt)")
wanted=(-r envs/requirements.txt)
if [ "$dev" = yes ]; then
    stamps+=(".venv/.snaketune-dev-$(digest constraints.txt envs/requirements.txt envs/requirements-dev.txt)")
    wanted+=(-r envs/requirements-dev.txt)
fi
is_current() {
    reason=$(fault)
    [ -z "$reason" ] && [ -e "${stamps[${#stamps[@]} - 1]}" ]
}
! is_current || exit 0
take_turn
! is_current || exit 0

[ -z "$reason" ] || make_environment "$reason"
{ : >"$unfinished" && : >"$log"; } 2>/dev/null ||
    stop ".venv cannot be written: free space or fix permissions ($(free_space))."
check_pip_settings
share_find_links
tool=pip
have_uv && tool=uv
say "Installing the pinned packages into .venv with $tool; the first time takes a minute or two."
pin=$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' constraints.txt)
if gpu_wanted; then
    build=$(suitable_build)
    case "$build" in
        ordinary) ;;
        "$older") install_older_torch ;;
        *) stop "$build" ;;
    esac
    # A folder of wheels may offer the CPU build, which would win and leave the GPU idle.
    wanted+=("torch!=$pin+cpu")
elif [ "$(uname -s)" = Linux ]; then
    install_cpu_torch
fi
install_requirements "${wanted[@]}" -c constraints.txt || explain_failure
compile_packages
check_imports

# The stamps come last: an interrupted installation starts from the beginning. Stamps of other pins are void.
rm -f .venv/.snaketune-*
touch "${stamps[@]}"
say "Done: $(.venv/bin/python -c 'import platform, torch; print("Python", platform.python_version(), "and torch", torch.__version__)')."
