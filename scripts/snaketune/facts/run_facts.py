"""run.json, the identity of a run, and history.json, the runs before it."""

from typing import Any, TypedDict

from snaketune.facts.fact_files import FactFile
from snaketune.facts.shapes import Moment


class ConfigEntry(TypedDict):
    """A resolved value of the configuration and where it comes from."""

    value: Any
    origin: str | None


class SourceOptions(TypedDict):
    """Options of one source in the configuration besides its path."""

    name: str | None
    weight: float | None
    max_records: int | None


class RawSource(TypedDict):
    """A raw file: path as configured, size and content digest."""

    path: str
    bytes: int | None
    digest: str | None
    options: SourceOptions


class Digests(TypedDict, total=False):
    """Content digests of a run's inputs and results, and of the code of each stage."""

    data: str | None
    rows: str
    tokenizer: str | None
    chat_template: str | None
    base_model: str | None
    adapter: str | None
    merged: str | None
    base_run: str
    start_adapter: str
    code: dict[str, str]


class RunIdentity(TypedDict):
    """run.json; ``config`` is flat with dotted keys, and ``earlier`` has the ones of the runs that it starts from."""

    run: str
    id: str
    fingerprint: str | None
    training_fingerprint: str | None
    config: dict[str, ConfigEntry]
    digests: Digests
    sources: list[RawSource]
    versions: dict[str, str]
    seeds: dict[str, int]
    notes: list[str]
    earlier: dict[str, dict[str, ConfigEntry]]


class ResolvedConfig(TypedDict):
    """A resolved configuration with the origin of each value; ``earlier`` has those of the runs it starts from."""

    config: dict[str, ConfigEntry]
    notes: list[str]
    earlier: dict[str, dict[str, ConfigEntry]]


class StageTime(TypedDict):
    """When a stage ended (ISO 8601), how many seconds it took, and whether it was there before this workflow began."""

    stage: str
    id: str
    seconds: float | None
    finished: Moment | None
    reused: bool | None


class RunBefore(TypedDict):
    """The run that was finished last before this one, with its flat configuration."""

    run: str
    id: str
    finished: str
    config: dict[str, Any]


class History(TypedDict):
    """history.json; measured."""

    stages: list[StageTime]
    before: RunBefore | None


RESOLVED = FactFile(ResolvedConfig)
RUN = FactFile(RunIdentity)
HISTORY = FactFile(History)
