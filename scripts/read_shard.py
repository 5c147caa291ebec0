"""Read a shard: convert a part of the sources' lines, for `read_records` to combine.

Arguments:
    settings: operational settings: scratch, threads, work.
    stage: stage.json with the sources.
    part: file to write, named after the shard.
"""

import os
from functools import partial

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Read the shard that the part is named after."""
    arguments = parse_arguments(__doc__, "settings", "stage", "part")
    from snaketune.data.records.reading_policy import ReadingPolicy
    from snaketune.data.records.reading_shard import read_shard
    from snaketune.data.shards import Shard
    from snaketune.facts.data_facts import STAGED
    from snaketune.storage.disks import Disks
    from snaketune.storage.stage_facts import sources_of
    from snaketune.storage.staging import ensure_staged

    settings, shard = arguments.settings, Shard.named(arguments.part.stem)
    disks, policy = Disks.of(os.environ, settings["work"]), ReadingPolicy.of_slice(arguments.cfg)
    near = partial(ensure_staged, scratch=settings["scratch"], work=settings["work"], disks=disks)
    read_shard(sources_of(STAGED.read(arguments.stage)), near, policy, shard, arguments.part, settings["threads"])


if __name__ == "__main__":
    run(main)
