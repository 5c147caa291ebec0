"""Evaluate a run: base, tuned and merged model on the held-out split, and on evaluation files and tasks.

Arguments:
    model: base model: its manifest or folder.
    adapter: adapter: its manifest or folder.
    merged: merge.json, for a run that merges.
    tokens: tokenised splits: their manifest or folder.
    rows: packed rows: their manifest, or those of the held-out split.
    records: split records: their manifest, or those held out.
    output: evaluation.json to write.
    generations: JSON lines of requests and answers to write.
    documents: JSON lines of the documents' losses to write.
    info: JSON file of times to write; nothing is timed without it.
"""

import os
import time

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Read the manifests, evaluate, and write the measures, the answers, the losses of the documents and the times."""
    names = ("model", "adapter", "tokens", "rows", "records", "output", "generations", "documents")
    arguments = parse_arguments(
        __doc__, *names, optional=("merged", "info"), facts=("output", "generations", "documents", "info")
    )
    # Everything that is evaluated lies on disk; a task file must not fetch its data either.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    from snaketune.evaluate.packages import require_evaluation_packages
    from snaketune.train.packages import spare_unused

    spare_unused(arguments.cfg)
    wanted = arguments.cfg.get("evaluate", {})
    require_evaluation_packages(wanted.get("metrics", ()), wanted.get("tasks", ()))
    from snaketune.core.gpus import take_cards
    from snaketune.evaluate.evaluation import evaluate
    from snaketune.evaluate.inputs import located
    from snaketune.evaluate.results import write_documents, write_generations
    from snaketune.evaluate.settings import EvaluationSettings, Material
    from snaketune.facts.evaluation import EVALUATION
    from snaketune.facts.measured import EVALUATION_INFO
    from snaketune.merge.outcome import merged_folder
    from snaketune.train.monitoring.provenance import describe_machine

    take_cards()
    material = Material(
        model=located(arguments.model, "model"),
        adapter=located(arguments.adapter, "adapter"),
        merged=merged_folder(arguments.merged),
        tokens=located(arguments.tokens, ""),
        rows=located(arguments.rows, "eval.arrow"),
        records=located(arguments.records, "eval.jsonl"),
    )
    settings = EvaluationSettings.of_slice(arguments.cfg)
    evaluation = evaluate(material, settings, time.perf_counter if arguments.info else None)
    write_generations(arguments.generations, evaluation)
    write_documents(arguments.documents, evaluation)
    if arguments.info:
        EVALUATION_INFO.write(arguments.info, {"machine": describe_machine(), "models": evaluation.timings})
    EVALUATION.write(arguments.output, evaluation.facts)


if __name__ == "__main__":
    run(main)
