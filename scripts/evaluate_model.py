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
    names = ("model", "adapter", "tokens", "rows", "records", "output", "generations", "documents")
    others = {"optional": ("merged", "judge", "info")}
    given = parse_arguments(__doc__, *names, **others, facts=("output", "generations", "documents", "info"))
    from snaketune.evaluate.evaluation_packages import prepare_imports

    prepare_imports(given.cfg)
    from snaketune.evaluate.results import EvaluationJob, evaluate_run
    from snaketune.merge.outcome import merged_folder

    evaluate_run(EvaluationJob(**vars(given) | {one: merged_folder(vars(given)[one]) for one in ("merged", "judge")}))


if __name__ == "__main__":
    run(main)
