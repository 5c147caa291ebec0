"""One parsed record to one canonical record, by the reading of its source; whatever container it comes from."""

from typing import Any

from snaketune.data.formats import FORMATS, Converter, converter_of
from snaketune.data.policy import Reading, ReadingPolicy

KNOWN_COLUMNS = 1000


class RecordConverter:
    """Converts the records of one source; what it saw of them is taken with :meth:`seen`."""

    def __init__(self, reading: Reading, policy: ReadingPolicy):
        form = FORMATS[reading.format]
        self._convert = _with_system_prompt(
            converter_of(form, form.names(policy.columns), policy.pairs), policy.system_prompt
        )
        self._wanted = set(policy.columns.values())
        self._columns: set[str] = set()

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the content of the canonical record.

        Raises:
            Refusal: if it cannot become one.
        """
        columns = self._columns
        if not columns.issuperset(record):
            columns.update(record if len(columns) < KNOWN_COLUMNS else self._wanted.intersection(record))
        return self._convert(record)

    def seen(self) -> set[str]:
        """Return the columns of the records since the last call, at most about 1,000, and which of the wanted ones."""
        columns, self._columns = self._columns, set()
        return columns


def _with_system_prompt(convert: Converter, prompt: str | None) -> Converter:
    if not prompt:
        return convert

    def with_prompt(record: dict[str, Any]) -> dict[str, Any]:
        converted = convert(record)
        messages = converted.get("messages")
        if messages and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": prompt})
        return converted

    return with_prompt
