"""Prepare the base model: fetch it, link it or train a tiny one, check its weights and describe it.

Arguments:
    output: folder of the model to write.
    manifest: manifest to write.
    tokenizer: manifest of the prepared tokenizer.
    corpus: training records, for a tiny model that learns from them.
    base: merge.json of the run that this one starts from.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run
from snaketune.core.manifest import write_manifest


def main() -> None:
    """Fill the model folder and write its manifest."""
    arguments = parse_arguments(
        __doc__, "output", "manifest", "tokenizer", optional=("corpus", "base"), facts=("manifest",)
    )
    from snaketune.model.prepare import merged_base, prepare_model
    from snaketune.model.tokenizer_only import TokenizerFolder

    output = Path(arguments.output)
    corpus = Path(arguments.corpus) if arguments.corpus else None
    base = merged_base(arguments.base) if arguments.base else None
    weights = not arguments.cfg.get("plan", {}).get("without_weights", False)
    tokenizer = TokenizerFolder.of_manifest(arguments.tokenizer)
    facts = prepare_model(arguments.cfg["model"], output, tokenizer, corpus, base, weights)
    write_manifest(arguments.manifest, "prepare_model", [output], facts)


if __name__ == "__main__":
    run(main)
