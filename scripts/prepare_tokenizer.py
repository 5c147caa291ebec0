"""Prepare the tokenizer of the base model: all that data preparation needs, without any weights.

Arguments:
    output: folder of the tokenizer to write.
    manifest: manifest to write.
    corpus: training records, for a tiny model that learns from them.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run
from snaketune.core.manifest import write_manifest


def main() -> None:
    """Fill the folder with tokenizer, chat template and configuration and write its manifest."""
    arguments = parse_arguments(__doc__, "output", "manifest", optional=("corpus",), facts=("manifest",))
    from snaketune.model.tokenizer_only import prepare_tokenizer

    output, corpus = Path(arguments.output), Path(arguments.corpus) if arguments.corpus else None
    facts = prepare_tokenizer(arguments.cfg["model"], output, corpus)
    write_manifest(arguments.manifest, "prepare_tokenizer", [output], facts)


if __name__ == "__main__":
    run(main)
