"""Checks of the user's inputs when the workflow starts, also with ``-n``, before anything is computed.

The beginning of each source is read by the functions that later read all of it: this detects an unknown shape or a
wrong name in ``data.columns``. Evaluation files, which are small and used last, are read completely.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from snaketune.config.schema import LinkedConfig
from snaketune.core.cached_state import keep
from snaketune.core.canonical import digest_of, read_json
from snaketune.core.errors import ConfigError, DataError
from snaketune.data.records.reading_policy import INSPECTED_SOURCES, ReadingPolicy
from snaketune.storage.object_storage import is_remote
from snaketune.workflow.sources.inputs import BUILTIN_PREFIX, ExternalInputs
from snaketune.workflow.stages import slice_of

if TYPE_CHECKING:
    from snaketune.evaluate.answers.evaluation_files import FileSettings
    from snaketune.settings.data_slices import ReadingSlice
    from snaketune.settings.evaluation_slices import EvaluationSlice


class Preflight:
    """Checks each file content once.

    Args:
        found: the files with their digests.
        remembered: JSON file of contents that passed; a damaged one is rebuilt.
    """

    def __init__(self, found: ExternalInputs, remembered: Path):
        self._found, self._path = found, remembered
        self._known = _known(remembered)
        self._good = dict(self._known)

    def check_sources(self, config: LinkedConfig) -> None:
        """Read the beginning of the first 20 sources of a run, except objects in storage.

        Raises:
            ConfigError: if a setting does not fit one.
            DataError: if one cannot be read or has no known shape.
        """
        policy = ReadingPolicy.of_slice(cast("ReadingSlice", slice_of(config, "read_records")))
        for number, entry in enumerate(self._found.sources(config)[:INSPECTED_SOURCES]):
            path = str(entry["path"])
            key = {"entry": entry, "policy": asdict(policy)}
            if not is_remote(path) and not path.startswith(BUILTIN_PREFIX) and self._is_new(key):
                # Imported only for new content: it brings in the readers of all formats.
                from snaketune.data.formats.inspection import read_beginning

                read_beginning(number, entry, policy, self._path.parent)
                self._remember(key, path)

    def check_evaluation_files(self, run: str, config: LinkedConfig) -> None:
        """Read every file of ``evaluate.files`` of the run named ``run`` as the evaluation will.

        Raises:
            ConfigError: naming the run, the file and what is wrong with it.
        """
        if not config.evaluate.files:
            return
        from snaketune.evaluate.answers.evaluation_files import FileSettings

        outside = self._found.outside("evaluate_model", config)
        settings = FileSettings.of_slice(cast("EvaluationSlice", {**slice_of(config, "evaluate_model"), **outside}))
        for entry in settings.entries:
            key = {"entry": entry, "columns": settings.columns, "system": settings.system_prompt}
            if self._is_new(key):
                _read_whole(run, entry, settings)
                self._remember(key, entry["path"])

    def save(self) -> None:
        """Keep what was read for the next invocation."""
        if self._good != self._known:
            keep(self._path, self._good)
            self._known = dict(self._good)

    def _is_new(self, key: Mapping[str, Any]) -> bool:
        return digest_of(key) not in self._good

    def _remember(self, key: Mapping[str, Any], path: str) -> None:
        self._good[digest_of(key)] = path


def _read_whole(run: str, entry: dict[str, str], settings: "FileSettings") -> None:
    from snaketune.evaluate.answers.evaluation_files import canonical_records

    try:
        with canonical_records(entry, settings):
            pass
    except DataError as error:
        raise ConfigError(f"run {run}: {error}") from None


def _known(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, DataError):
        return {}
    return found if isinstance(found, dict) else {}
