"""Pack the documents of both splits into fixed-size rows.

Arguments:
    rightsize: rightsize.json with the length of a row.
    tokens: manifest of the tokenised splits.
    train: Arrow file of training rows to write.
    eval: Arrow file of held-out rows to write.
    manifest: manifest to write.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Pack, write and account for both splits."""
    arguments = parse_arguments(__doc__, "rightsize", "tokens", "train", "eval", "manifest", facts=("manifest",))
    from snaketune.core.canonical import read_json
    from snaketune.core.manifest import read_manifest, write_manifest
    from snaketune.data.rows.cutting import CutDocuments, Sizes, cut
    from snaketune.data.rows.packed_rows import write_rows
    from snaketune.data.rows.packing import one_per_row, pack, refuse_mixed_pairs, wants_packing
    from snaketune.data.tokens.token_store import TokenStore

    manifest = read_manifest(arguments.tokens)
    settings, sizes = arguments.cfg["tokens"], read_json(arguments.rightsize)
    row_length = sizes["max_length"]
    packs = wants_packing(settings["packing"], sizes.get("model_packs"))
    accounts = {}
    for split, output in (("train", arguments.train), ("eval", arguments.eval)):
        store = TokenStore(Path(arguments.tokens).parent / split)
        refuse_mixed_pairs(bool(store.seconds.any()), sizes.get("model_packs"))
        pieces = cut(Sizes.of(store), row_length, settings["on_too_long"])
        rows = pack(pieces.lengths, row_length) if packs else one_per_row(pieces.lengths)
        account = write_rows(output, CutDocuments(store, pieces), rows, row_length, manifest["pad_id"])
        accounts[split] = account | pieces.counts()
    write_manifest(
        arguments.manifest,
        "pack_rows",
        [arguments.train, arguments.eval],
        {"row_length": row_length, "packing": packs, "splits": accounts},
    )


if __name__ == "__main__":
    run(main)
