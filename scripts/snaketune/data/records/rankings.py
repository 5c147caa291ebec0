"""Several answers to one prompt: where their texts are and which number ranks them."""

from typing import Any

from snaketune.data.records.reading_policy import Ranking

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


def scores_of(values: list[list[Any]]) -> Ranking | None:
    """Return the keys of text and score that all answers have."""
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
