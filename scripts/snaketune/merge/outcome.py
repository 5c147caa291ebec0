"""The outcome of a merge: one fact file for every later stage, with or without a merged model.

A refused or failed merge must not cost the evaluation and the report: the job succeeds and records the failure in the
facts. ``accept_merge`` runs after them and ends the workflow with the message.
"""

import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from snaketune.core import errors
from snaketune.core.canonical import read_json
from snaketune.core.cli import described
from snaketune.core.errors import DiskFullError, SnaketuneError, TrainingError
from snaketune.core.manifest import read_manifest, write_manifest

STAGE = "merge_adapter"
FACTS = "merge.json"
REFUSED = "refused"
# In messages about causes that may be temporary: the next command merges again.
TRY_AGAIN = "try again"


def attempt(merge: Callable[[], dict[str, Any]], output: Path, facts: Path) -> None:
    """Merge, and write the fact file in any case; after a refusal there is no folder ``output``.

    Args:
        merge: makes the folder and returns its facts, or raises.
        output: the folder of the merged model.
        facts: the file to write: a manifest with ``files``, and ``refused`` where there are none.
    """
    try:
        found, files = merge(), [output]
    except Exception as error:
        found, files = {REFUSED: _refusal(error)}, []
        print(f"{found[REFUSED]['error']}: {found[REFUSED]['reason']}", file=sys.stderr, flush=True)
        shutil.rmtree(output, ignore_errors=True)
    write_manifest(facts, STAGE, files, found)


def _refusal(error: Exception) -> dict[str, Any]:
    """Return an error as facts; an unexpected one is also logged with its traceback."""
    if isinstance(error, SnaketuneError):
        reason = str(error)
        passes = isinstance(error, DiskFullError) or TRY_AGAIN in reason
        return {"error": type(error).__name__, "reason": reason, "is_final": not passes}
    if sentence := described(error):
        return {"error": TrainingError.__name__, "reason": f"The merge failed: {sentence}", "is_final": False}
    traceback.print_exception(error)
    first = (str(error).strip() or "no message").splitlines()[0]
    reason = (
        f"The merge ended with {type(error).__name__} ({first}): {TRY_AGAIN}, with more memory and disk space, or set "
        "merge.enabled to false and use the adapter."
    )
    return {"error": TrainingError.__name__, "reason": reason, "is_final": False}


def refusal_of(facts: Mapping[str, Any] | None) -> str:
    """Return why there is no merged model, in a sentence; empty where there is one or none was wanted."""
    return str(((facts or {}).get(REFUSED) or {}).get("reason", ""))


def merged_folder(path: str | Path | None) -> Path | None:
    """Return the folder of the merged model of a fact file after verifying its content; None without one.

    A folder is returned as it is.

    Raises:
        DataError: if a file that the facts list is missing or damaged.
    """
    if not path:
        return None
    path = Path(path)
    if path.suffix != ".json":
        return path
    return None if refusal_of(read_manifest(path)) else path.with_name("merged")


def accepted(path: str | Path) -> dict[str, Any]:
    """Return the manifest of a merged model that is there.

    Raises:
        SnaketuneError: the one that the merge ended with.
    """
    facts = read_json(path)
    if reason := refusal_of(facts):
        kind = getattr(errors, facts[REFUSED]["error"], TrainingError)
        raise kind(f"{reason} The rest of the run is complete: the adapter, its evaluation and the report.")
    return facts


def is_to_be_repeated(path: str | Path) -> bool:
    """Tell whether a merge failed for a possibly temporary reason, so that the next command tries again."""
    try:
        refused = read_json(path).get(REFUSED)
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(refused, dict) and not refused.get("is_final", True)
