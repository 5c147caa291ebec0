"""One shard of deduplication: first the keys of its records, then sketches of those without an earlier equal."""

from collections.abc import Sequence
from pathlib import Path

from snaketune.data.parallel import in_processes
from snaketune.data.records.canonical_records import Range, count_lines, line_ranges
from snaketune.data.shards import Shard, write_part
from snaketune.data.similarity.dedupe import KEY_BYTES, DedupePolicy, absent, keys_of_range, plan_from_keys
from snaketune.data.similarity.minhash import sketch_range, sketching_tasks


def key_shard(path: Path, policy: DedupePolicy, shard: Shard, part: str | Path, threads: int = 1) -> None:
    """Write the record count and the keys (16 bytes per record) of each range of the shard to ``part``."""
    tasks = [(path, span, policy) for span in _ranges(path, shard)]
    write_part(part, in_processes(counted_keys, tasks, threads))


def counted_keys(path: Path, span: Range, policy: DedupePolicy) -> tuple[int, bytes]:
    """Return the number of records in a range and their keys; no keys if exact deduplication is off."""
    if not policy.exact:
        return count_lines(path, span), b""
    keys = keys_of_range(path, span, policy.ignore_case)
    return len(keys) // KEY_BYTES, keys


def sketch_shard(
    path: Path, policy: DedupePolicy, shard: Shard, keys: Sequence[Path], folder: Path, threads: int = 1
) -> None:
    """Write sketches of the shard's records to ``folder``, skipping records that equal an earlier one.

    Args:
        path: canonical records.
        policy: the criteria for near duplicates.
        shard: the shard to sketch.
        keys: the files of keys of all shards: an earlier equal record may be in any of them.
        folder: receives the sketches.
        threads: processes to use.
    """
    ranges = line_ranges(path)
    own = set(_ranges(path, shard))
    tasks = sketching_tasks(path, ranges, absent(*plan_from_keys(keys, policy)), policy.criteria, folder)
    for _ in in_processes(sketch_range, [task for task in tasks if task[1] in own], threads):
        pass


def _ranges(path: Path, shard: Shard) -> list[Range]:
    total = path.stat().st_size
    return [span for span in line_ranges(path) if shard.holds(span[0], total)]
