#!/usr/bin/env bash
# One session of about ten minutes on a machine with a GPU: is the card fit, and how fast is it beside other tools.
# Usage: bash benchmarks/gpu.sh [folder for the results]
#
# It needs torch with CUDA, transformers, peft, accelerate, pyarrow and orjson; nothing is downloaded.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-results/gpu_check}
python=${PYTHON:-python}
[ ! -x .venv/bin/python ] || python=${PYTHON:-.venv/bin/python}
mkdir -p "$folder"

status=0
"$python" scripts/gpu_check.py --output "$folder" | tee "$folder/gpu_check.txt" || status=$?
# The comparison that docs/benchmarks.md shows for a CPU.
timeout "${SECONDS_OF_COMPARISON:-480}" "$python" benchmarks/train.py --cases plain trl trl-packed snaketune --repeats 1 \
    2>&1 | tee "$folder/train.txt" || status=$?
exit "$status"
