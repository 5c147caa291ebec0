"""Key a shard: compute the keys of a part of the records, by which `dedupe_records` finds equal ones.

Arguments:
    settings: operational settings: scratch, threads, work.
    records: canonical records as JSON lines.
    part: file of keys to write, named after the shard.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Compute the keys of the shard that the part is named after."""
    arguments = parse_arguments(__doc__, "settings", "records", "part")
    from snaketune.data.shards import Shard
    from snaketune.data.similarity.dedupe import DedupePolicy
    from snaketune.data.similarity.dedupe_shard import key_shard

    policy, part = DedupePolicy(**arguments.cfg["dedupe"]), Path(arguments.part)
    key_shard(Path(arguments.records), policy, Shard.named(part.stem), part, arguments.settings["threads"])


if __name__ == "__main__":
    run(main)
