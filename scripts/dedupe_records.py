"""Dedupe records: keep the first of equal records and list the removed ones in pairs."""

from snaketune.common.atomic import writing
from snaketune.common.door import parse_arguments, run
from snaketune.common.manifest import write_manifest
from snaketune.data.deduping import dedupe


def main() -> None:
    """Pass records through, without exact duplicates."""
    arguments = parse_arguments(__doc__, "records", "kept", "duplicates", "manifest")
    with (
        open(arguments.records, "rb") as lines,
        writing(arguments.kept) as kept,
        writing(arguments.duplicates) as pairs,
    ):
        counts = dedupe(lines, arguments.cfg["dedupe"]["exact"], kept, pairs)
    write_manifest(arguments.manifest, "dedupe_records", [arguments.kept, arguments.duplicates], counts)


if __name__ == "__main__":
    run(main)
