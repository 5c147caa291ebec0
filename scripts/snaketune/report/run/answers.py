"""Generated answers: counts of all, and a mix of examples that never hides wrong ones."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from snaketune.report.run.prompt_frames import Frame, SharedText
from snaketune.report.text import Excerpt, excerpt

SHOWN_OF_A_KIND = 12
SHOWN_OF_FILE = 6
ANSWER_CHARACTERS = 1500

# In display order: those that need attention come first.
ANSWER_KINDS = {
    "broken": "right before, wrong now",
    "wrong": "still wrong",
    "fixed": "wrong before, right now",
    "right": "right before and after",
    "tuned_wrong": "wrong",
    "tuned_right": "right",
    "changed": "changed, not scored",
    "unchanged": "unchanged, not scored",
}
WRONG_KINDS = ("broken", "wrong", "tuned_wrong")


@dataclass(frozen=True, slots=True)
class Answer:
    """One held-out request with the answers of the models; a model that gave none is absent."""

    kind: str
    prompt: Excerpt
    reference: Excerpt
    answers: tuple[tuple[str, Excerpt, str], ...]


@dataclass(frozen=True, slots=True)
class ShownAnswers:
    """The numbers of answers of each kind, the few that are shown, and the text around all of their prompts."""

    counts: Mapping[str, int] = field(default_factory=dict)
    shown: tuple[Answer, ...] = ()
    frame: Frame = field(default_factory=Frame)

    @property
    def total(self) -> int:
        """All answered requests."""
        return sum(self.counts.values())

    @property
    def groups(self) -> tuple[tuple[str, tuple[Answer, ...]], ...]:
        """The shown answers by kind, in the order of the kinds."""
        found = ((kind, tuple(answer for answer in self.shown if answer.kind == kind)) for kind in ANSWER_KINDS)
        return tuple((kind, group) for kind, group in found if group)

    @property
    def paired(self) -> int:
        """Requests whose base and tuned answers were both scored."""
        return sum(self.counts.get(kind, 0) for kind in ("broken", "wrong", "fixed", "right"))


def collect(generations: Iterable[Mapping[str, Any]], shown: int = SHOWN_OF_A_KIND) -> ShownAnswers:
    """Count ``generations`` by kind in one pass and keep at most ``shown`` of them, taking the kinds in turn."""
    counts: Counter[str] = Counter()
    candidates: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in ANSWER_KINDS}
    shared = SharedText()
    for line in generations:
        if "left_out" in line:  # a request that was not put
            continue
        kind = kind_of_answer(line)
        counts[kind] += 1
        shared.add(str(line.get("prompt") or ""))
        if len(candidates[kind]) < shown:
            candidates[kind].append(line)
    chosen, frame = _in_turn(candidates, shown), shared.frame()
    kept = (_answer(kind, line, frame) for kind in ANSWER_KINDS for line in candidates[kind][: chosen[kind]])
    return ShownAnswers(dict(counts), tuple(kept), frame)


def collect_by_file(generations: Iterable[Mapping[str, Any]], shown: int = SHOWN_OF_FILE) -> dict[str, ShownAnswers]:
    """Return the same for each external file; the lines of a file are consecutive."""
    groups = itertools.groupby(generations, key=lambda line: str(line["file"]))
    return {name: collect(lines, shown) for name, lines in groups}


def kind_of_answer(line: Mapping[str, Any]) -> str:
    """Return the kind of one generation, from its match flags where it has them."""
    base, tuned = line.get("base_match"), line.get("tuned_match")
    if tuned is None:
        return "unchanged" if line.get("base") == line.get("tuned") else "changed"
    if base is None:
        return "tuned_right" if tuned else "tuned_wrong"
    return {(1, 0): "broken", (0, 0): "wrong", (0, 1): "fixed", (1, 1): "right"}[int(bool(base)), int(bool(tuned))]


def _in_turn(candidates: Mapping[str, list[Mapping[str, Any]]], total: int) -> Counter[str]:
    chosen: Counter[str] = Counter()
    while total > 0:
        waiting = [kind for kind in ANSWER_KINDS if chosen[kind] < len(candidates[kind])]
        if not waiting:
            break
        for kind in waiting[:total]:
            chosen[kind] += 1
        total -= len(waiting)
    return chosen


def _answer(kind: str, line: Mapping[str, Any], frame: Frame) -> Answer:
    models = [name for name in ("base", "tuned", "merged") if line.get(name) is not None]
    if line.get("merged") == line.get("tuned"):
        models = [name for name in models if name != "merged"]
    given = tuple((name, excerpt(line[name], ANSWER_CHARACTERS), _mark(line.get(f"{name}_match"))) for name in models)
    prompt = excerpt(frame.inside(str(line.get("prompt") or "")), ANSWER_CHARACTERS)
    return Answer(kind, prompt, excerpt(line.get("reference"), ANSWER_CHARACTERS), given)


def _mark(match: Any) -> str:
    return "" if match is None else "right" if match else "wrong"
