"""Evaluate a run: base, tuned and merged model on the held-out split."""

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Read the manifests, evaluate, and write the measures, the answers and the losses of the documents."""
    names = ("model", "adapter", "tokens", "rows", "records", "output", "generations", "documents")
    arguments = parse_arguments(__doc__, *names, optional=("merged",))
    from snaketune.common.atomic import write_json
    from snaketune.evaluate.evaluation import EvaluationSettings, Material, evaluate, write_documents, write_generations
    from snaketune.evaluate.inputs import located

    material = Material(
        model=located(arguments.model, "model"),
        adapter=located(arguments.adapter, "adapter"),
        merged=located(arguments.merged, "merged") if arguments.merged else None,
        tokens=located(arguments.tokens, ""),
        rows=located(arguments.rows, "eval.arrow"),
        records=located(arguments.records, "eval.jsonl"),
    )
    evaluation = evaluate(material, EvaluationSettings.of_slice(arguments.cfg))
    write_generations(arguments.generations, evaluation)
    write_documents(arguments.documents, evaluation)
    write_json(arguments.output, evaluation.facts)


if __name__ == "__main__":
    run(main)
