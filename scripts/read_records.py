"""Read records: validate every line of the sources and set aside, with its reason, what is no record."""

from pathlib import Path

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Read the staged sources into canonical records and a quarantine."""
    arguments = parse_arguments(__doc__, "settings", "stage", "records", "quarantine", "manifest")
    from snaketune.common.atomic import writing
    from snaketune.common.canonical import read_json
    from snaketune.common.manifest import write_manifest
    from snaketune.data.reading import ReadingPolicy, read_records
    from snaketune.data.staging import ensure_staged, sources_of

    scratch, work = arguments.settings["scratch"], Path(arguments.settings["work"])
    sources = sources_of(read_json(arguments.stage))
    kept_at = work / "quarantine" / f"{Path(arguments.quarantine).parent.name}.jsonl"
    with writing(arguments.records) as records, writing(arguments.quarantine) as quarantine:
        places = ((source, ensure_staged(source, scratch, work)) for source in sources)
        facts = read_records(places, ReadingPolicy(**arguments.cfg["data"]), records, quarantine, kept_at)
    write_manifest(arguments.manifest, "read_records", [arguments.records, arguments.quarantine], facts)


if __name__ == "__main__":
    run(main)
