"""Tokenise a shard: a part of the records of both splits, for `tokenize_records` to combine.

Arguments:
    settings: operational settings: scratch, threads, work.
    train: training records as JSON lines.
    eval: held-out records as JSON lines.
    model: manifest of the prepared tokenizer.
    stage: stage.json with the sources.
    part: file to write, named after the shard.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Tokenise the shard that the part is named after."""
    arguments = parse_arguments(__doc__, "settings", "train", "eval", "model", "stage", "part")
    from snaketune.data.shards import Shard
    from snaketune.data.sources.source_names import names_in
    from snaketune.data.tokens.chunk_tokenizing import Recipe
    from snaketune.data.tokens.tokenizing import tokenize_shard

    part, files = Path(arguments.part), {"train": arguments.train, "eval": arguments.eval}
    recipe = Recipe.of_slice(arguments.cfg, arguments.model, names_in(arguments.stage))
    tokenize_shard(files, recipe, Shard.named(part.stem), part, arguments.settings["threads"])


if __name__ == "__main__":
    run(main)
