"""Dedupe records: keep the first of equal and of nearly equal ones and list every other with the one that stays."""

from pathlib import Path

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Plan which records go, write the plan as a table, then carry the table out."""
    arguments = parse_arguments(__doc__, "settings", "records", "removed", "kept", "duplicates", "manifest")
    from snaketune.common.atomic import private_folder, writing
    from snaketune.common.manifest import write_manifest
    from snaketune.data.dedupe import DedupePolicy, plan_removal
    from snaketune.data.removal import LineIndex, carry_out, write_removed

    policy = DedupePolicy(**arguments.cfg["dedupe"])
    place = Path(arguments.settings["work"]) / "dedupe_records" / Path(arguments.kept).parent.name
    with private_folder(place) as folder:
        plan = plan_removal(Path(arguments.records), policy, folder, arguments.settings["threads"])
    index = LineIndex.read(arguments.records)
    with writing(arguments.removed) as removed:
        write_removed(plan, index, removed)
    with writing(arguments.kept) as kept, writing(arguments.duplicates) as duplicates:
        carry_out(arguments.removed, arguments.records, index, kept, duplicates)
    outputs = [arguments.removed, arguments.kept, arguments.duplicates]
    write_manifest(arguments.manifest, "dedupe_records", outputs, plan.facts())


if __name__ == "__main__":
    run(main)
