"""Read records: validate every line of the sources and set aside, with its reason, what is not a record.

Arguments:
    settings: operational settings: scratch, threads, work.
    stage: stage.json with the sources.
    parts: results of all shards, where shards have made them.
    records: JSON lines of canonical records to write.
    quarantine: JSON lines of rejected lines to write.
    manifest: manifest to write.
"""

import os
from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Read the staged sources into canonical records and a quarantine."""
    arguments = parse_arguments(
        __doc__, "settings", "stage", "records", "quarantine", "manifest", several=("parts",), facts=("manifest",)
    )
    from snaketune.core.atomic import writing
    from snaketune.core.canonical import read_json
    from snaketune.core.manifest import write_manifest
    from snaketune.data.records.accounting import summary_of
    from snaketune.data.records.reading import read_records
    from snaketune.data.records.reading_policy import Limits, ReadingPolicy
    from snaketune.storage.disks import Disks
    from snaketune.storage.staging import ensure_staged, sources_of

    settings, work = arguments.settings, Path(arguments.settings["work"])
    disks = Disks.of(os.environ, work)
    sources = sources_of(read_json(arguments.stage))
    places = ensure_staged(sources, settings["scratch"], work, disks)
    kept_at = work / "quarantine" / f"{Path(arguments.quarantine).parent.name}.jsonl"
    policy = ReadingPolicy.of_slice(arguments.cfg)
    limits = Limits.of_slice(arguments.cfg)
    with writing(arguments.records) as records, writing(arguments.quarantine) as quarantine:
        pairs = zip(sources, places, strict=True)
        facts = read_records(pairs, policy, records, quarantine, kept_at, settings["threads"], arguments.parts, limits)
    write_manifest(arguments.manifest, "read_records", [arguments.records, arguments.quarantine], facts)
    print(*summary_of(facts), sep="\n")


if __name__ == "__main__":
    run(main)
