"""The evaluation job: reads inputs and writes measures, and answers and losses case by case."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from snaketune.core.atomic import writing
from snaketune.core.gpus import take_cards
from snaketune.evaluate.evaluation import EvaluationResult, evaluate
from snaketune.evaluate.evaluation_inputs import located
from snaketune.evaluate.evaluation_settings import EvaluationInputs, EvaluationSettings
from snaketune.facts.evaluation_facts import EVALUATION
from snaketune.facts.measured import EVALUATION_INFO
from snaketune.settings.evaluation_slices import EvaluationSlice
from snaketune.train.monitoring.provenance import describe_machine


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """The inputs of an evaluation, named like the flags of ``evaluate_model.py``.

    ``merged`` and ``judge`` are folders of models.
    """

    spec: str
    code: str
    cfg: EvaluationSlice
    model: Path
    adapter: Path
    merged: Path | None
    tokens: Path
    rows: Path
    records: Path
    output: Path
    generations: Path
    documents: Path
    info: Path | None
    judge: Path | None = None


def evaluate_run(job: EvaluationJob) -> None:
    """Evaluate and write the measures, the answers, the losses of the documents and, where wanted, the times.

    Raises:
        DataError: if an input is missing or damaged.
    """
    take_cards()
    inputs = EvaluationInputs(
        model=located(job.model, "model"),
        adapter=located(job.adapter, "adapter"),
        merged=job.merged,
        tokens=located(job.tokens, ""),
        rows=located(job.rows, "eval.arrow"),
        records=located(job.records, "eval.jsonl"),
        judge=job.judge,
    )
    evaluation = evaluate(inputs, EvaluationSettings.of_slice(job.cfg), time.perf_counter if job.info else None)
    write_generations(job.generations, evaluation)
    write_documents(job.documents, evaluation)
    if job.info:
        EVALUATION_INFO.write(job.info, {"machine": describe_machine(), "models": evaluation.timings})
    EVALUATION.write(job.output, evaluation.facts)


def write_generations(path: str | Path, evaluation: EvaluationResult) -> None:
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


def write_documents(path: str | Path, evaluation: EvaluationResult) -> None:
    """Write one JSON line per packed document: record, loss-bearing tokens and the models' summed losses in nats.

    The line of the rejected answer of a pair says so and follows that of the chosen one. For a reward model the lines
    have scores instead of losses.
    """
    with writing(path) as file:
        if evaluation.scores:
            for line in evaluation.scores.lines():
                file.write(_line(line))
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
