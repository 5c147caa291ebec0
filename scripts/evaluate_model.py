"""Evaluate a run: base, tuned and merged model on the held-out split, and on evaluation files and tasks.

Arguments:
    model: base model: its manifest or folder.
    adapter: adapter: its manifest or folder.
    merged: merge.json, for a run that merges.
    judge: merge.json of the reward model that scores the answers.
    tokens: tokenised splits: their manifest or folder.
    rows: packed rows: their manifest, or those of the held-out split.
    records: split records: their manifest, or those held out.
    output: evaluation.json to write.
    generations: JSON lines of requests and answers to write.
    documents: JSON lines of the documents' losses to write.
    info: JSON file of times to write; nothing is timed without it.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Read the manifests, evaluate, and write the measures, the answers, the losses of the documents and the times."""
    read, made = ("model", "adapter", "tokens", "rows", "records"), ("output", "generations", "documents")
    arguments = parse_arguments(__doc__, *read, *made, optional=("merged", "judge", "info"), facts=(*made, "info"))
    from snaketune.evaluate.evaluation_packages import prepare_imports

    prepare_imports(arguments.cfg)
    from snaketune.evaluate.results import EvaluationJob, evaluate_run
    from snaketune.merge.outcome import merged_folder

    folders = {name: merged_folder(getattr(arguments, name)) for name in ("merged", "judge")}
    evaluate_run(EvaluationJob(**{**vars(arguments), **folders}))


if __name__ == "__main__":
    run(main)
