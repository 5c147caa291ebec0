"""Merge an adapter, or several, into the base model, have the result proven equal, and publish it."""

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Merge, have it checked and write the manifest."""
    names = ("model", "adapter", "tokens", "rows", "output", "manifest")
    arguments = parse_arguments(__doc__, *names, several=("others",), facts=("manifest",))
    from snaketune.common.manifest import write_manifest
    from snaketune.evaluate.inputs import located
    from snaketune.merge.material import Material
    from snaketune.merge.merging import merge_adapter
    from snaketune.merge.origins import check_origin

    held_out = located(arguments.rows, "eval.arrow")
    material = Material(
        model=located(arguments.model, "model"),
        adapter=located(arguments.adapter, "adapter"),
        template=located(arguments.tokens, "") / "chat_template.jinja",
        rows=(held_out, held_out.with_name("train.arrow")),
        others=tuple(located(path, "adapter") for path in arguments.others),
    )
    for adapter in (arguments.adapter, *arguments.others):
        check_origin(arguments.model, adapter)
    facts = merge_adapter(material, arguments.cfg, arguments.output)
    write_manifest(arguments.manifest, "merge_adapter", [arguments.output], facts)


if __name__ == "__main__":
    run(main)
