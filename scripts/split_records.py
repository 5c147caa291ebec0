"""Split records: hold out a fraction of the prompts and train on nothing that gives them or an evaluation away.

Arguments:
    settings: operational settings: scratch, threads, work.
    records: deduplicated records as JSON lines.
    train: JSON lines of training records to write.
    eval: JSON lines of held-out records to write.
    leaks: JSON lines of records that are too similar to held-out ones to write.
    manifest: manifest to write.
"""

import os
import sys
from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Plan the sides, copy every line to its own, and look at both again."""
    arguments = parse_arguments(
        __doc__, "settings", "records", "train", "eval", "leaks", "manifest", facts=("manifest",)
    )
    from snaketune.core.atomic import private_folder, writing
    from snaketune.core.manifest import write_manifest
    from snaketune.data.similarity.leaks import Side, check_sides
    from snaketune.data.similarity.removal import LineIndex
    from snaketune.data.split.split_plan import SplitPolicy, plan_sides, write_leaks
    from snaketune.data.split.splitting import apply_plan
    from snaketune.storage.disks import Disks, temporary_place

    policy = SplitPolicy(**arguments.cfg["split"])
    evaluations = arguments.cfg.get("evaluations", [])
    settings, records = arguments.settings, Path(arguments.records)
    threads, name = settings["threads"], f"split_records-{Path(arguments.train).parent.name}"
    disks = Disks.of(os.environ, settings["work"])
    place = temporary_place(settings["scratch"], settings["work"], name, disks, records.stat().st_size)
    index = LineIndex.read(records, threads)
    with private_folder(place) as folder:
        plan = plan_sides(records, policy, evaluations, index, folder, threads)
    times = plan.times(index, arguments.cfg.get("mixing"))
    with writing(arguments.train) as train, writing(arguments.eval) as held_out, writing(arguments.leaks) as leaks:
        apply_plan(plan.side, records, train, held_out, times)
        write_leaks(plan, records, evaluations, index, leaks)
        train.flush()
        held_out.flush()
        with private_folder(place) as folder:
            sides = Path(train.name), Side(Path(held_out.name), plan.must_differ)
            left = check_sides(*sides, policy.max_similarity is not None, folder, threads)
    facts = {**plan.facts(policy, index.sources, times), **left}
    for note in plan.notes(policy):
        print(f"Note: {note}", file=sys.stderr)
    outputs = [arguments.train, arguments.eval, arguments.leaks]
    write_manifest(arguments.manifest, "split_records", outputs, facts)


if __name__ == "__main__":
    run(main)
