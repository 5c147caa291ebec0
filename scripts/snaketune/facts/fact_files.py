"""Reading and writing fact files: typed, numbered by format, and refused in one sentence when damaged or too new."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from snaketune.core.atomic import write_json
from snaketune.core.canonical import read_json
from snaketune.core.errors import DataError
from snaketune.facts.shapes import ShapeError, shaped

T = TypeVar("T")
FORMAT_KEY = "format"
REPAIR = "delete it and run the same command, its stage writes it again"


@dataclass(frozen=True, slots=True)
class FactFile(Generic[T]):
    """One kind of fact file.

    Attributes:
        kind: the ``TypedDict`` that its content has.
        format: rises when a reader of the former format would misread the file. A file without a number comes from
            before the numbers, and has the keys of format 1.
    """

    kind: type[T]
    format: int = 1

    def read(self, path: str | Path) -> T:
        """Return the facts at ``path``, checked, with what an older version did not write filled in.

        Raises:
            DataError: if the file is missing, damaged or of a newer format.
        """
        return self.parse(read_document(path), path)

    def read_manifest(self, path: str | Path) -> T:
        """Return the facts in the manifest at ``path`` after checking every file that it lists.

        Raises:
            DataError: as :meth:`read`, and if a file is missing or damaged; the manifest is removed then.
        """
        from snaketune.core.manifest import read_manifest  # it imports xxhash, which readers of single files do without

        return self.parse(read_manifest(path), path)

    def parse(self, document: Any, path: str | Path) -> T:
        """Return the facts of a parsed document; ``path`` is for the error.

        Raises:
            DataError: if the document has not the shape of these facts or is of a newer format.
        """
        try:
            facts = shaped(document, self.kind)
        except ShapeError as error:
            raise DataError(f"{path}: {error}: {REPAIR}.") from None
        self._check_format(document.get(FORMAT_KEY), path)
        return facts

    def write(self, path: str | Path, facts: Mapping[str, Any]) -> None:
        """Write the facts with their format number."""
        write_json(path, {FORMAT_KEY: self.format, **facts})

    def _check_format(self, number: Any, path: str | Path) -> None:
        if number is None or (isinstance(number, int) and 1 <= number <= self.format):
            return
        raise DataError(
            f"{path}: its format is {number!r}, and this version reads formats up to {self.format}: use the version of"
            f" the workflow that wrote it, or {REPAIR}."
        )


def read_document(path: str | Path) -> dict[str, Any]:
    """Return the JSON object at ``path``.

    Raises:
        DataError: if there is none.
    """
    try:
        document = read_json(path)
    except FileNotFoundError:
        raise missing_file(path) from None
    if not isinstance(document, dict):
        raise DataError(f"{path} does not hold a JSON object: {REPAIR}.")
    return document


def missing_file(path: str | Path) -> DataError:
    """Return the error for a fact file that is not there."""
    return DataError(f"{path} does not exist: run the same command again, its stage writes it.")
