"""Read a shard: convert one share of the sources' lines, for `read_records` to put together.

Arguments:
    settings: operational settings: scratch, threads, work.
    stage: stage.json with the sources.
    part: file to write, named after the shard.
"""

import os
from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Read the shard that the part is named after."""
    arguments = parse_arguments(__doc__, "settings", "stage", "part")
    from snaketune.core.canonical import read_json
    from snaketune.data.records.reading_policy import ReadingPolicy
    from snaketune.data.records.reading_shard import read_shard
    from snaketune.data.shards import Shard
    from snaketune.storage.disks import Disks
    from snaketune.storage.staging import ensure_staged, sources_of

    settings, part = arguments.settings, Path(arguments.part)
    sources, scratch, work = sources_of(read_json(arguments.stage)), settings["scratch"], settings["work"]
    disks = Disks.of(os.environ, work)
    policy = ReadingPolicy.of_slice(arguments.cfg)
    read_shard(
        sources,
        lambda some: ensure_staged(some, scratch, work, disks),
        policy,
        Shard.named(part.stem),
        part,
        settings["threads"],
    )


if __name__ == "__main__":
    run(main)
