"""Dedupe records: keep the first of equal ones and list every removed one with the one that stays."""

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Plan which records go, then copy the others untouched."""
    arguments = parse_arguments(__doc__, "records", "kept", "duplicates", "manifest")
    from snaketune.common.atomic import writing
    from snaketune.common.manifest import write_manifest
    from snaketune.data.dedupe import carry_out, plan_exact, plan_nothing

    plan = (plan_exact if arguments.cfg["dedupe"]["exact"] else plan_nothing)(arguments.records)
    with writing(arguments.kept) as kept, writing(arguments.duplicates) as duplicates:
        carry_out(plan, arguments.records, kept, duplicates)
    write_manifest(arguments.manifest, "dedupe_records", [arguments.kept, arguments.duplicates], plan.facts())


if __name__ == "__main__":
    run(main)
