"""Read records: validate every line of the sources, and quarantine with the reason what is not a record.

Arguments:
    settings: operational settings: scratch, threads, work.
    stage: stage.json with the sources.
    parts: results of all shards, where shards have made them.
    records: JSON lines of canonical records to write.
    quarantine: JSON lines of rejected lines to write.
    manifest: manifest to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Read the staged sources into canonical records and a quarantine."""
    arguments = parse_arguments(
        __doc__, "settings", "stage", "records", "quarantine", "manifest", several=("parts",), facts=("manifest",)
    )
    from snaketune.data.records.reading_shard import ReadingJob, read_all

    read_all(ReadingJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
