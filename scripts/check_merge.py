"""Check a merged model in a process of its own: merge_adapter starts it before anything is published.

Arguments:
    folder: merged model to check.
    model: folder of the base model.
    adapter: folder of the adapter.
    template: chat template that the training used.
    rows: packed rows to compare the models on.
    output: JSON file of the findings to write.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Write the facts of the check, or end with the sentence that says what is wrong."""
    names = ("folder", "model", "adapter", "template", "output")
    arguments = parse_arguments(__doc__, *names, several=("rows",))
    from snaketune.core.atomic import write_json
    from snaketune.merge.merge_inputs import MergeInputs
    from snaketune.merge.verification.merge_gate import check_merged_folder

    inputs = MergeInputs(
        model=Path(arguments.model),
        adapter=Path(arguments.adapter),
        template=Path(arguments.template),
        rows=tuple(map(Path, arguments.rows)),
    )
    write_json(arguments.output, check_merged_folder(Path(arguments.folder), inputs, arguments.cfg))


if __name__ == "__main__":
    run(main)
