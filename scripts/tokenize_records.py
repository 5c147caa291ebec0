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
    from snaketune.data.tokens.tokenizing_job import TokenizingJob, tokenize_records

    tokenize_records(TokenizingJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
