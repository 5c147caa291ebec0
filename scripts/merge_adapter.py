"""Merge an adapter, or several, into the base model, have the result proven, and publish it or say why not.

Arguments:
    model: base model: its manifest or folder.
    adapter: adapter: its manifest or folder.
    others: further adapters to merge with it.
    tokens: tokenised splits: their manifest or folder.
    rows: packed rows: their manifest, or those of the held-out split.
    output: merge.json to write; the merged model is the folder `merged` beside it.
"""

from pathlib import Path
from typing import Any

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Merge, have it checked and write the facts; the merged model is the folder ``merged`` beside them."""
    names = ("model", "adapter", "tokens", "rows", "output")
    arguments = parse_arguments(__doc__, *names, several=("others",), facts=("output",))
    from snaketune.core.gpus import take_cards
    from snaketune.evaluate.inputs import located
    from snaketune.merge.merge_inputs import Material, check_origin
    from snaketune.merge.merging import merge_adapter
    from snaketune.merge.outcome import attempt

    take_cards()
    held_out = located(arguments.rows, "eval.arrow")
    material = Material(
        model=located(arguments.model, "model"),
        adapter=located(arguments.adapter, "adapter"),
        template=located(arguments.tokens, "") / "chat_template.jinja",
        rows=(held_out, held_out.with_name("train.arrow")),
        others=tuple(located(path, "adapter") for path in arguments.others),
    )
    folder = Path(arguments.output).with_name("merged")

    def merge() -> dict[str, Any]:
        for adapter in (arguments.adapter, *arguments.others):
            check_origin(arguments.model, adapter)
        return merge_adapter(material, arguments.cfg, folder)

    attempt(merge, folder, Path(arguments.output))


if __name__ == "__main__":
    run(main)
