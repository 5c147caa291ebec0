"""Merge an adapter, or several, into the base model, verify the result, and publish it or record why not.

Arguments:
    model: base model: its manifest or folder.
    adapter: adapter: its manifest or folder.
    others: further adapters to merge with it.
    tokens: tokenised splits: their manifest or folder.
    rows: packed rows: their manifest, or those of the held-out split.
    output: merge.json to write; the merged model goes into the folder `merged` next to it.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Merge, check the result and write the facts; the merged model goes into the folder ``merged`` next to them."""
    names = ("model", "adapter", "tokens", "rows", "output")
    arguments = parse_arguments(__doc__, *names, several=("others",), facts=("output",))
    from snaketune.merge.merging import MergeJob, merge_run

    merge_run(MergeJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
