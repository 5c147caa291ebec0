"""The check of both written sides of a split: they share no prompt, and no text is too similar.

It reads the files, not the plan that they were written from, so that a fault of either stops the stage before anything
is published.
"""

from pathlib import Path

import numpy as np
import xxhash

from snaketune.core.errors import DataError
from snaketune.data.parallel import in_processes
from snaketune.data.records.canonical_records import Range, key_bytes, line_ranges, prompt_of, read_turns
from snaketune.data.similarity.leaks import Side, search, tasks_of

# A training record this similar to a held-out one fails the check.
FORBIDDEN = 0.8
# About this many evenly spaced ranges of a long training file are searched.
CHECKED_RANGES = 4


def check_sides(train: Path, evaluation: Side, template_family: bool, folder: Path, threads: int = 1) -> dict[str, int]:
    """Read both written sides back and check that they share nothing.

    All prompts are compared. Similar texts are searched in full up to 64 MiB of training records and in a sample of
    ranges beyond; ``records_checked`` is the number of records searched.

    Args:
        train: the training records.
        evaluation: the held-out records; the choice applies to similar texts only, prompts are always compared.
        template_family: whether to search for similar texts, too.
        folder: an empty folder for temporary files.
        threads: processes to use.

    Raises:
        DataError: if a prompt is on both sides or two texts are too similar.
    """
    prompts = [_prompt_keys(path, threads) for path in (train, evaluation.path)]
    shared = {"shared_prompts": int(np.isin(prompts[1], prompts[0]).sum())}
    checked = {}
    if template_family:
        tasks = tasks_of(Side(train), FORBIDDEN)
        tasks = tasks[:: max(1, -(-len(tasks) // CHECKED_RANGES))]
        shared["similar_pairs"] = len(search(tasks, evaluation, FORBIDDEN, folder, threads).train)
        checked["records_checked"] = sum(len(chosen) for _, _, chosen, *_ in tasks)
    if any(shared.values()):
        raise DataError(
            f"split: after splitting {shared} occur on both sides, which must never happen: please report this with "
            "the configuration; another split.seed may avoid it."
        )
    return {**shared, **checked}


def _prompt_keys(path: Path, threads: int) -> np.ndarray:
    tasks = [(path, span) for span in line_ranges(path)]
    return np.frombuffer(b"".join(in_processes(prompt_keys_of_range, tasks, threads)), np.uint64)


def prompt_keys_of_range(path: Path, span: Range) -> bytes:
    """Return a 64-bit hash of each normalised prompt of a range, 8 bytes each in native byte order."""
    hashes = (xxhash.xxh3_64_intdigest(key_bytes(prompt_of(turns))) for turns in read_turns(path, span))
    return np.fromiter(hashes, np.uint64).tobytes()
