"""Read records: every line becomes a canonical record or goes into quarantine with its place and reason."""

import shutil
from pathlib import Path

from tqdm import tqdm

from snaketune.common.atomic import write_bytes, writing
from snaketune.common.canonical import digest_of, read_json
from snaketune.common.door import parse_arguments, run
from snaketune.common.errors import DataError
from snaketune.common.manifest import write_manifest
from snaketune.data.reading import ReadingRules, check_fraction, read_sources
from snaketune.data.staging import Source, locate


def main() -> None:
    """Read all sources; the quarantine of a refused reading is kept in the work folder."""
    arguments = parse_arguments(__doc__, "settings", "stage", "records", "quarantine", "manifest")
    rules, settings = ReadingRules(**arguments.cfg["data"]), arguments.settings
    work = Path(settings["work"])
    entries = [Source(**entry) for entry in read_json(arguments.stage)["sources"]]
    located = [locate(entry, settings["scratch"], work / "builtin") for entry in entries]
    total = sum(entry.bytes for entry in entries)
    rejected = work / "quarantine" / f"{digest_of(arguments.spec, size=4)}.jsonl"
    with writing(arguments.records) as records:
        with (
            writing(arguments.quarantine) as quarantine,
            tqdm(total=total, unit="B", unit_scale=True, disable=None) as bar,
        ):
            account = read_sources(located, rules, records, quarantine, bar.update)
        try:
            check_fraction(account, rules.max_bad_fraction, str(rejected))
        except DataError:
            write_bytes(rejected, b"")
            shutil.copyfile(arguments.quarantine, rejected)
            raise
    outputs = [arguments.records, arguments.quarantine]
    write_manifest(arguments.manifest, "read_records", outputs, account.facts())


if __name__ == "__main__":
    run(main)
