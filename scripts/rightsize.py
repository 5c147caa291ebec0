"""Choose the maximum length from the data and write the small file that everything after depends on.

Arguments:
    tokens: manifest of the tokenised splits.
    model: manifest of the prepared tokenizer.
    output: rightsize.json to write.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Measure the lengths, decide, and fingerprint the data."""
    arguments = parse_arguments(__doc__, "tokens", "model", "output", facts=("output",))
    from snaketune.core.canonical import digest_of, read_json
    from snaketune.core.manifest import read_manifest
    from snaketune.data.rows.cutting import Sizes
    from snaketune.data.rows.rightsizing import LengthPolicy, rightsize
    from snaketune.data.tokens.left_out_records import check_losses, lengths_told
    from snaketune.data.tokens.token_store import TokenStore
    from snaketune.facts.data import RIGHTSIZE

    tokens, model = read_manifest(arguments.tokens), read_json(arguments.model)
    folder = Path(arguments.tokens).parent
    train, held_out = TokenStore(folder / "train"), TokenStore(folder / "eval")
    policy, pairs = LengthPolicy(**arguments.cfg["tokens"]), bool(train.seconds.any())
    facts = rightsize(Sizes.of(train), Sizes.of(held_out), policy, model["context_length"], pairs)
    check_losses(facts, tokens["splits"], policy, pairs)
    for line in lengths_told(facts, pairs):
        print(line)
    # What was left out is not trained on: its account may change without a retraining.
    data = {name: file for name, file in tokens["files"].items() if name != "dropped.jsonl"}
    facts["model_packs"] = model.get("nature", {}).get("packing")
    parts = {"data": data, "tokenizer": model["tokenizer_digest"], "max_length": facts["max_length"]}
    facts["fingerprint"] = digest_of(parts)
    RIGHTSIZE.write(arguments.output, facts)


if __name__ == "__main__":
    run(main)
