"""Deduplicate records: keep the first of equal or nearly equal ones, and list each removed one with the one kept.

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

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Plan the removals, write them as a table, then apply it."""
    names = ("settings", "records", "removed", "kept", "duplicates", "manifest")
    arguments = parse_arguments(__doc__, *names, several=("keys", "sketches"), facts=("manifest",))
    from snaketune.data.similarity.removal import DedupeJob, dedupe

    dedupe(DedupeJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
