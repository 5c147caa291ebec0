"""Merge an adapter into its base model, prove the result equal, and publish it."""

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Merge, check and write the manifest."""
    arguments = parse_arguments(__doc__, "model", "adapter", "tokens", "rows", "output", "manifest")
    from snaketune.common.manifest import write_manifest
    from snaketune.evaluate.inputs import located
    from snaketune.merge.merging import MergeMaterial, MergeSettings, merge_adapter

    held_out = located(arguments.rows, "eval.arrow")
    material = MergeMaterial(
        model=located(arguments.model, "model"),
        adapter=located(arguments.adapter, "adapter"),
        template=located(arguments.tokens, "") / "chat_template.jinja",
        rows=(held_out, held_out.with_name("train.arrow")),
    )
    facts = merge_adapter(material, MergeSettings.of_slice(arguments.cfg), arguments.output)
    write_manifest(arguments.manifest, "merge_adapter", [arguments.output], facts)


if __name__ == "__main__":
    run(main)
