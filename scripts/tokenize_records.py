"""Tokenise both splits: chat template, token ids and loss masks as memory-mapped Arrow.

Arguments:
    settings: operational settings: scratch, threads, work.
    train: training records as JSON lines.
    eval: held-out records as JSON lines.
    model: manifest of the prepared tokenizer.
    stage: stage.json with the sources.
    parts: results of all shards, where shards have made them.
    output-train: folder of the tokenised training split to write.
    output-eval: folder of the tokenised held-out split to write.
    template: chat template to write.
    dropped: JSON lines of records left out to write.
    manifest: manifest to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Tokenise the training and the held-out records with the model's tokenizer."""
    made = ("output-train", "output-eval", "template", "dropped", "manifest")
    names = ("settings", "train", "eval", "model", "stage", *made)
    arguments = parse_arguments(__doc__, *names, several=("parts",), facts=("manifest",))
    from snaketune.core.atomic import write_bytes, writing
    from snaketune.core.manifest import write_manifest
    from snaketune.data.sources.source_names import names_in
    from snaketune.data.tokens.chunk_tokenizing import Recipe
    from snaketune.data.tokens.left_out_records import left_out_at_tokenising
    from snaketune.data.tokens.tokenizing import tokenize_splits
    from snaketune.data.tokens.tokenizing_account import warnings_of

    recipe = Recipe.of_slice(arguments.cfg, arguments.model, names_in(arguments.stage))
    files = {
        "train": (arguments.train, arguments.output_train),
        "eval": (arguments.eval, arguments.output_eval),
    }
    with writing(arguments.dropped) as dropped:
        facts = tokenize_splits(files, recipe, dropped, arguments.settings["threads"], arguments.parts)
    for line in warnings_of(facts) + left_out_at_tokenising(facts["splits"]):
        print(line)
    write_bytes(arguments.template, (recipe.template or "").encode())
    outputs = [arguments.output_train, arguments.output_eval, arguments.template, arguments.dropped]
    write_manifest(arguments.manifest, "tokenize_records", outputs, facts)


if __name__ == "__main__":
    run(main)
