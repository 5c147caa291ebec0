"""Dedupe records: keep the first of equal and of nearly equal ones and list every other with the one that stays.

Arguments:
    settings: operational settings: scratch, threads, work.
    records: canonical records as JSON lines.
    keys: keys of all shards, where shards have made them.
    sketches: sketches of all shards, where shards have made them.
    removed: Arrow table of the removed records to write.
    kept: JSON lines of the kept records to write.
    duplicates: JSON lines of the pairs to write.
    manifest: manifest to write.
"""

import os
from pathlib import Path

from snaketune.core.cli import parse_arguments, run

# Temporary files for near-duplicates: up to 10 bytes for each byte of short records, 1.4 where they have 140 words.
BYTES_PER_BYTE = 10


def main() -> None:
    """Plan which records go, write the plan as a table, then carry the table out."""
    names = ("settings", "records", "removed", "kept", "duplicates", "manifest")
    arguments = parse_arguments(__doc__, *names, several=("keys", "sketches"), facts=("manifest",))
    from snaketune.core.atomic import private_folder, writing
    from snaketune.core.manifest import write_manifest
    from snaketune.data.similarity.dedupe import DedupeParts, DedupePolicy, plan_removal
    from snaketune.data.similarity.removal import LineIndex, apply_plan, write_removed
    from snaketune.data.tokens.left_out_records import removed_duplicates
    from snaketune.storage.disks import Disks, temporary_place

    policy = DedupePolicy(**arguments.cfg["dedupe"])
    settings, records = arguments.settings, Path(arguments.records)
    parts = DedupeParts(*([Path(path) for path in given] for given in (arguments.keys, arguments.sketches)))
    disks = Disks.of(os.environ, settings["work"])
    name, needed = f"dedupe_records-{Path(arguments.kept).parent.name}", BYTES_PER_BYTE * records.stat().st_size
    place = temporary_place(settings["scratch"], settings["work"], name, disks, needed)
    with private_folder(place) as folder:
        plan = plan_removal(records, policy, folder, settings["threads"], parts)
    index = LineIndex.read(records, settings["threads"])
    with writing(arguments.removed) as removed:
        write_removed(plan, index, removed)
    with writing(arguments.kept) as kept, writing(arguments.duplicates) as duplicates:
        apply_plan(arguments.removed, arguments.records, index, kept, duplicates)
    outputs = [arguments.removed, arguments.kept, arguments.duplicates]
    facts = plan.facts()
    for line in removed_duplicates(facts):
        print(line)
    write_manifest(arguments.manifest, "dedupe_records", outputs, facts)


if __name__ == "__main__":
    run(main)
