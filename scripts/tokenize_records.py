"""Tokenise both splits: chat template, token ids and loss masks as memory-mapped Arrow."""

from pathlib import Path

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Tokenise the training and the held-out records with the model's tokenizer."""
    names = ("settings", "train", "eval", "model", "output-train", "output-eval", "template", "dropped", "manifest")
    arguments = parse_arguments(__doc__, *names)
    from snaketune.common.atomic import write_bytes, writing
    from snaketune.common.manifest import read_manifest, write_manifest
    from snaketune.data.templates import choose_template
    from snaketune.data.tokenizer import own_chat_template
    from snaketune.data.tokenizing import Recipe, tokenize_splits, warnings_of

    model = read_manifest(arguments.model)
    folder = Path(arguments.model).parent / "model"
    settings = arguments.cfg["tokens"]
    template = choose_template(settings["chat_template"], own_chat_template(folder))
    pairs = arguments.cfg.get("train", {}).get("method") == "dpo"
    recipe = Recipe(str(folder), template, settings["assistant_only_loss"], model.get("vocab_size"), pairs=pairs)
    files = {
        "train": (arguments.train, arguments.output_train),
        "eval": (arguments.eval, arguments.output_eval),
    }
    with writing(arguments.dropped) as dropped:
        facts = tokenize_splits(files, recipe, dropped, arguments.settings["threads"])
    print(*warnings_of(facts), sep="\n", end="\n" if warnings_of(facts) else "")
    write_bytes(arguments.template, (template or "").encode())
    outputs = [arguments.output_train, arguments.output_eval, arguments.template, arguments.dropped]
    write_manifest(arguments.manifest, "tokenize_records", outputs, facts)


if __name__ == "__main__":
    run(main)
