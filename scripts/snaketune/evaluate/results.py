"""The files in which people read the evaluation case by case."""

from pathlib import Path
from typing import Any

import orjson

from snaketune.core.atomic import writing
from snaketune.evaluate.evaluation import Evaluation


def write_generations(path: str | Path, evaluation: Evaluation) -> None:
    """Write one JSON line per request: prompt, reference, answers, whether they are right, and all scores.

    Requests of the held-out split come first; those of an external file name it.
    """
    with writing(path) as file:
        if evaluation.held_out:
            for line in evaluation.held_out.rows():
                file.write(_line(line))
        for name, questions in evaluation.files.items():
            for line in questions.rows():
                file.write(_line({"file": name, **line}))


def write_documents(path: str | Path, evaluation: Evaluation) -> None:
    """Write one JSON line per packed document: record, loss-bearing tokens and the models' summed losses in nats.

    The line of the rejected answer of a pair says so and follows that of the chosen one.
    """
    with writing(path) as file:
        if not evaluation.likelihoods:
            return
        first = next(iter(evaluation.likelihoods.values()))
        losses = {f"{name}_nll": found.nll for name, found in evaluation.likelihoods.items()}
        for place in range(len(first.records)):
            which = {"record": int(first.records[place]), **({"rejected": True} if first.rejected[place] else {})}
            nll = {name: float(found[place]) for name, found in losses.items()}
            file.write(_line({**which, "tokens": int(first.tokens[place]), **nll}))


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
