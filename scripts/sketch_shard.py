"""Sketch a shard: compute the sketches of a part of the records, by which `dedupe_records` finds near-duplicates.

Arguments:
    settings: operational settings: scratch, threads, work.
    records: canonical records as JSON lines.
    keys: keys of all shards.
    output: folder of sketches to write, named after the shard.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Sketch the shard that the output folder is named after."""
    arguments = parse_arguments(__doc__, "settings", "records", "output", several=("keys",))
    from snaketune.core.atomic import writing_directory
    from snaketune.data.shards import Shard
    from snaketune.data.similarity.dedupe import DedupePolicy
    from snaketune.data.similarity.dedupe_shard import sketch_shard

    records, policy = Path(arguments.records), DedupePolicy(**arguments.cfg["dedupe"])
    keys, shard = [Path(path) for path in arguments.keys], Shard.named(Path(arguments.output).name)
    with writing_directory(arguments.output) as folder:
        sketch_shard(records, policy, shard, keys, folder, arguments.settings["threads"])


if __name__ == "__main__":
    run(main)
