"""Tokenise both splits: chat template, token ids and loss masks as memory-mapped Arrow."""

from pathlib import Path

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Tokenise the training and the held-out records with the model's tokenizer."""
    names = ("train", "eval", "model", "output-train", "output-eval", "template", "manifest")
    arguments = parse_arguments(__doc__, *names)
    from snaketune.common.atomic import write_bytes
    from snaketune.common.errors import DataError
    from snaketune.common.manifest import read_manifest, write_manifest
    from snaketune.data.templates import ChatTemplate
    from snaketune.data.tokenizer import TextTokenizer, own_chat_template
    from snaketune.data.tokenizing import choose_template, tokenize_split

    read_manifest(arguments.model)
    folder = Path(arguments.model).parent / "model"
    settings = arguments.cfg["tokens"]
    tokenizer = TextTokenizer(folder)
    source = choose_template(settings["chat_template"], own_chat_template(folder))
    template = ChatTemplate(source, tokenizer.special_tokens) if source else None

    accounts, examples = {}, None
    for split, records, output in (
        ("train", arguments.train, arguments.output_train),
        ("eval", arguments.eval, arguments.output_eval),
    ):
        with open(records, "rb") as lines:
            account, shown = tokenize_split(lines, tokenizer, template, settings["assistant_only_loss"], output)
        accounts[split], examples = account, examples or shown
    if not accounts["train"].records:
        reasons = dict(accounts["train"].dropped) or "no records"
        detail = accounts["train"].first_refusal or "no token of an answer is left to train on"
        raise DataError(
            f"{arguments.train}: nothing can be trained on ({reasons}); {detail}: check tokens.chat_template."
        )
    write_bytes(arguments.template, (source or "").encode())
    write_manifest(
        arguments.manifest,
        "tokenize_records",
        [arguments.output_train, arguments.output_eval, arguments.template],
        {
            "vocab_size": tokenizer.vocab_size,
            "pad_id": tokenizer.pad_id,
            "engine": tokenizer.engine,
            "splits": {split: account.facts() for split, account in accounts.items()},
            "examples": examples,
        },
    )


if __name__ == "__main__":
    run(main)
