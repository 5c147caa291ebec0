"""Runs the check of a merged model in a separate process, which knows the model only from its files."""

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from snaketune.core import errors
from snaketune.core.canonical import canonical_text, read_json
from snaketune.core.errors import DataError, SnaketuneError, TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.models import is_whole_model
from snaketune.merge.adapter import read_adapter
from snaketune.merge.merge_inputs import MergeInputs, MergeSettings
from snaketune.merge.trained_model import read_trained_model
from snaketune.merge.verification.scores import verify_scores
from snaketune.merge.verification.verify import VerificationInputs, verify_merge
from snaketune.model.reward_model import is_reward_model
from snaketune.settings.merge_slices import MergeSlice

SCRIPT = Path(__file__).parents[3] / "check_merge.py"


def check_merged_folder(folder: Path, inputs: MergeInputs, cfg: MergeSlice) -> dict[str, Any]:
    """Check the merged model in ``folder`` in this process and return the facts.

    Args:
        folder: the merged model.
        inputs: the inputs of the merge; its adapter is the one that was merged.
        cfg: configuration slice of the merge.

    Raises:
        TrainingError: with the numbers, if the check fails.
    """
    settings = MergeSettings.of_slice(cfg)
    adapter = inputs.adapter
    tuned = read_trained_model(adapter) if is_whole_model(adapter) else read_adapter(adapter)
    name, rows = checking_rows(inputs.rows)
    template = inputs.template.read_text(encoding="utf-8")
    scores = is_reward_model(adapter)
    loading = replace(settings.model, scores=scores)
    proof = VerificationInputs(inputs.model, tuned, rows, loading, template, settings.dtype, settings.rounding)
    check = verify_scores(folder, proof) if scores else verify_merge(folder, proof)
    return {**check.facts(), "split": name}


def check_in_fresh_process(folder: Path, inputs: MergeInputs, cfg: MergeSlice) -> dict[str, Any]:
    """Run the same check in a new process, which shares no memory with this one, and return the facts.

    Raises:
        SnaketuneError: the error of the other process, or a TrainingError if it ended without one.
    """
    with tempfile.TemporaryDirectory(prefix="snaketune-check-") as place:
        facts = Path(place) / "check.json"
        paths = {"folder": folder, "model": inputs.model, "adapter": inputs.adapter}
        paths |= {"template": inputs.template, "output": facts}
        spec = canonical_text({"cfg": cfg})
        # The merging process still holds the tensors that it wrote: a check there could pass on memory instead of
        # files.
        command = [sys.executable, str(SCRIPT), "--spec", spec, "--rows", *map(str, inputs.rows)]
        command += [text for name, path in paths.items() for text in (f"--{name}", str(path))]
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        print(result.stderr, end="", file=sys.stderr, flush=True)
        if result.returncode:
            raise _refusal(result.stderr, result.returncode)
        return read_json(facts)


def _refusal(told: str, status: int) -> SnaketuneError:
    """Return the error that another process printed in its last line."""
    name, _, sentence = (told.strip().splitlines() or [""])[-1].partition(": ")
    kind = getattr(errors, name, None) if name.isidentifier() else None
    if isinstance(kind, type) and issubclass(kind, SnaketuneError):
        return kind(sentence)
    return TrainingError(
        f"The check of the merged model ended with status {status} without a result, perhaps out of memory: free "
        "memory and try again, or set merge.enabled to false."
    )


def checking_rows(paths: tuple[Path, ...]) -> tuple[str, PackedRows]:
    """Return the first packed rows that are not empty, and the name of their split.

    Raises:
        DataError: if all are empty.
    """
    for path in paths:
        rows = PackedRows(path)
        if len(rows):
            return path.stem, rows
    raise DataError(f"{paths[0]}: no packed rows to check the merged model on: add records to data.sources.")
