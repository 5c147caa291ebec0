"""External evaluation files: JSON lines in any of the formats that training data may have."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import orjson

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.records.quarantine import Quarantine
from snaketune.data.records.reading_policy import ReadingPolicy
from snaketune.data.records.record_reader import RecordReader
from snaketune.settings.evaluate_section import EvaluateSection
from snaketune.settings.evaluation_slices import EvaluationSlice
from snaketune.storage.copy_targets import NamedSource

SHARED: tuple[Literal["ignore", "roles", "strip"], ...] = ("ignore", "roles", "strip")
OWN_COLUMNS = "evaluate.columns"


@dataclass(frozen=True, slots=True)
class FileSettings:
    """The external files, ``{path, digest}`` each, and how they are read."""

    entries: tuple[dict[str, str], ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    system_prompt: str | None = None
    ignore: list[str] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    strip: list[str] = field(default_factory=list)
    columns_key: str = "data.columns"

    @classmethod
    def of_slice(cls, cfg: EvaluationSlice) -> "FileSettings":
        """Return the settings in a configuration slice; columns are those of the data unless given."""
        own, data = cast(EvaluateSection, cfg.get("evaluate", cfg)), cfg.get("data", {})
        columns = own.get("columns") or data.get("columns", {})
        key = OWN_COLUMNS if own.get("columns") else "data.columns"
        shared: dict[str, Any] = {name: data[name] for name in SHARED if name in data}
        entries = tuple(cfg.get("evaluation_files", ()))
        return cls(entries, columns, data.get("system_prompt"), columns_key=key, **shared)

    @property
    def policy(self) -> ReadingPolicy:
        """Return the reading settings; records of a test split are allowed, because these files are for testing."""
        given = (self.columns, self.ignore, self.roles, self.strip, self.system_prompt)
        return ReadingPolicy("auto", *given, for_training=False)

    def in_own_words(self, error: Exception) -> str:
        """Return an error of reading sources with the keys that are about evaluation files."""
        words = str(error).replace("data.sources", "evaluate.files").replace("data.columns", self.columns_key)
        return words.replace("set data.format, or name", "name")

    @property
    def named(self) -> dict[str, dict[str, str]]:
        """Each file under its name, or its path where another file has that name, too."""
        names = [Path(entry["path"]).name for entry in self.entries]
        pairs, counts = zip(self.entries, names, strict=True), Counter(names)
        return {name if counts[name] == 1 else entry["path"]: entry for entry, name in pairs}


@contextmanager
def canonical_records(entry: dict[str, str], settings: FileSettings) -> Iterator[Path]:
    """Provide the canonical records of an evaluation file for the duration of the block.

    Raises:
        DataError: if the file cannot be used as a whole: a question that is left out would change the score.
    """
    path = Path(entry["path"])
    with TemporaryDirectory() as folder:
        records = Path(folder) / "records.jsonl"
        with open(records, "wb") as file, open(Path(folder) / "refused.jsonl", "wb") as refused:
            reader = RecordReader(settings.policy, file, Quarantine(refused))
            try:
                reader.read([(NamedSource(entry["path"], path.stat().st_size, entry["digest"]), path)], threads=1)
                # A question that is missing changes the score unseen, whereas a training record that is missing is one
                # of many.
                if settings.columns_key == OWN_COLUMNS:  # training columns may be absent here
                    reader.finish()
            except (ConfigError, DataError) as error:
                raise DataError(f"evaluate.files: {settings.in_own_words(error)}") from None
            bad = reader.quarantine
            if bad.total:
                raise DataError(
                    f"evaluate.files: {bad.total} lines of {path} cannot be used ({bad.counts()}); the first is "
                    f"{bad.first}: correct or remove them."
                )
        if _is_text(records):
            raise DataError(f"evaluate.files: {path} is plain text, which has no questions to answer: remove it.")
        yield records


def _is_text(records: Path) -> bool:
    with open(records, "rb") as lines:
        return "text" in orjson.loads(next(lines))
