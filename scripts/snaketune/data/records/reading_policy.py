"""The reading of records: the policy from the configuration, and the decision for each source."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from snaketune.core.training_methods import PREFERENCE, method_of
from snaketune.settings.data_slices import ReadingSlice

# Number of sources whose beginning is inspected before any of them is read.
INSPECTED_SOURCES = 20
ANSWER_TEXTS = (
    "response",
    "text",
    "completion",
    "output",
    "answer",
    "content",
    "generation",
    "generated_text",
    "value",
)
SCORES = ("overall_score", "score", "rating", "rank", "ranking", "reward", "overall_rating", "preference_score")


@dataclass(frozen=True, slots=True)
class ReadingPolicy:
    """The ``data`` section of the configuration, and the training method.

    ``method`` is ``train.method``. ``for_training`` is false for evaluation files, whose records may belong to a test
    split.
    """

    format: str = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    strip: list[str] = field(default_factory=list)
    system_prompt: str | None = None
    max_bad_fraction: float = 0.05
    method: str = "sft"
    for_training: bool = True

    @property
    def pairs(self) -> bool:
        """Whether both answers of a preference are kept."""
        return self.method in PREFERENCE

    @classmethod
    def of_slice(cls, cfg: ReadingSlice) -> "ReadingPolicy":
        """Return the policy of a stage's configuration slice."""
        known: dict[str, Any] = {key: value for key, value in cfg["data"].items() if key in cls.__dataclass_fields__}
        return cls(**known, method=method_of(cfg))

    def of_source(self, options: Mapping[str, Any]) -> "ReadingPolicy":
        """Return the policy for a source with its own options."""
        own = {key: options[key] for key in ("format", "columns") if key in options}
        return replace(self, **own) if own else self


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """The maximum number of records of all sources together (None for all), and the seed of every sample."""

    max_records: int | None = None
    seed: int = 0

    @classmethod
    def of_slice(cls, cfg: ReadingSlice) -> "RecordLimits":
        """Return the limits of a stage's configuration slice."""
        data = cfg["data"]
        return cls(data.get("max_records"), data.get("seed", 0))

    def leave_out(self, options: Iterable[Mapping[str, Any]]) -> bool:
        """Return whether any limit applies, given the ``options`` of all sources."""
        return self.max_records is not None or any("max_records" in own for own in options)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ranking of several answers to one prompt.

    Attributes:
        text: key of an answer's text; None if the answers are plain texts, the best one first.
        score: key of the score; ``lowest_first`` if it is a rank.
    """

    text: str | None = None
    score: str | None = None
    lowest_first: bool = False


@dataclass(frozen=True, slots=True)
class SourceReading:
    """The way in which the records of one source are read, decided once from its first records.

    Attributes:
        format: the name of the format: ``messages``, ``sharegpt``, ``preference``, ``instruction``,
            ``prompt_completion`` or ``text``.
        fields: pairs of a field and its column, or path inside a column.
        rendered: name of the chat markup if conversations are written as one text, else empty.
        ranking: how answers are ranked if the answers of a pair are a list.
        judged: columns that say whether a record is for training; records that are not are set aside.
        single: columns that are lists of one item; a record with more is refused, since answers would be lost.
        known: the unused columns, each with the reason why it may be ignored.
        is_decided: whether the configuration names the main fields, so that other columns are ignored on purpose.
        named: the columns that the configuration names for this source.
        evidence: for the terminal: "question/answer read as prompt/completion".
        calls: whether answers that are function calls, as JSON text or objects, become tool calls.
        packed: columns whose texts are conversations in JSON or in Python's notation.
    """

    format: str
    fields: tuple[tuple[str, str], ...] = ()
    rendered: str = ""
    ranking: Ranking | None = None
    judged: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    known: tuple[tuple[str, str], ...] = ()
    is_decided: bool = False
    named: tuple[tuple[str, str], ...] = ()
    evidence: str = ""
    calls: bool = False
    packed: tuple[str, ...] = ()

    def field(self, name: str) -> str | None:
        """Return the path of a field, or None if the source has no such field."""
        return dict(self.fields).get(name)


def scores_of(values: list[list[Any]]) -> Ranking | None:
    """Return the keys of text and score that all answers have, or None."""
    answers = [answer for value in values for answer in value]
    if not all(type(answer) is dict for answer in answers) or all(len(value) == 1 for value in values):
        return None
    text = next((key for key in ANSWER_TEXTS if all(type(answer.get(key)) is str for answer in answers)), None)
    score = next((key for key in SCORES if all(_is_number(answer.get(key)) for answer in answers)), None)
    return Ranking(text, score, "rank" in score) if text and score else None


def _is_number(value: Any) -> bool:
    if type(value) is str:
        return value.replace(".", "", 1).isdigit()
    return type(value) in (int, float)
