"""Evaluation files are read when the workflow starts: a training must not end in a file that has no question."""

from pathlib import Path
from typing import Any

from snaketune.common.atomic import write_json
from snaketune.common.canonical import digest_of, read_json
from snaketune.common.errors import ConfigError, DataError
from snaketune.config.discovery import Discovery
from snaketune.config.resolve import ResolvedRun
from snaketune.config.stages import slice_of
from snaketune.evaluate.files import FileSettings, canonical_records


def check_evaluation_files(runs: list[ResolvedRun], found: Discovery, checked: Path) -> None:
    """Read every file of ``evaluate.files`` as the evaluation will, once for each content.

    Args:
        runs: the configured runs.
        found: the files with their digests.
        checked: JSON file of what was read without an error; a damaged one is made again.

    Raises:
        ConfigError: naming the run, the file and what is wrong with it.
    """
    known = _known(checked)
    good = dict(known)
    for run in runs:
        cfg = {**slice_of(run.config, "evaluate_model"), **found.outside("evaluate_model", run.config)}
        settings = FileSettings.of_slice(cfg)
        for entry in settings.entries:
            key = digest_of({"entry": entry, "columns": settings.columns, "system": settings.system_prompt})
            if key not in good:
                _read(run.name, entry, settings)
                good[key] = entry["path"]
    if good != known:
        write_json(checked, good)


def _read(run: str, entry: dict[str, str], settings: FileSettings) -> None:
    try:
        with canonical_records(entry, settings):
            pass
    except DataError as error:
        raise ConfigError(f"run {run}: {error}") from None


def _known(checked: Path) -> dict[str, Any]:
    try:
        found = read_json(checked)
    except (OSError, ValueError, DataError):
        return {}
    return found if isinstance(found, dict) else {}
