"""List the variants that no configured run uses; with `--config prune=yes` remove them.

Arguments:
    output: text file of the list to write.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Find unused variants, print them with their size, and remove them when asked to."""
    arguments = parse_arguments(__doc__, "output")
    from snaketune.core.atomic import write_bytes
    from snaketune.core.errors import ConfigError
    from snaketune.workflow.results.owners import UNKNOWN, owners_of
    from snaketune.workflow.results.pruning import (
        account,
        find_left,
        find_unused,
        find_unused_specs,
        find_unused_work,
        remove,
    )

    cfg, owners = arguments.cfg, owners_of(Path(arguments.cfg["results"]))
    if strange := set(cfg["others"]) - {owner.name for owner in owners} - {UNKNOWN}:
        known = ", ".join(owner.name for owner in owners if owner.name != cfg["owner"]) or "no other project"
        raise ConfigError(f"prune: {sorted(strange)[0]!r} owns nothing in {cfg['results']}: name {known}, or yes.")
    unused = find_unused(cfg["results"], set(cfg["variants"]), set(cfg["runs"]), cfg["owner"])
    unused += find_unused_work("work", cfg["results"], set(cfg["runs"]))
    unused += find_unused_specs("work", set(cfg["specs"])) + find_left(cfg["results"], "work")
    wanted = {*([""] if cfg["remove"] else []), *cfg["others"]}
    removed = [variant for variant in unused if variant.owner in wanted]
    remove(removed)
    lines = account(unused, removed, owners)
    print("\n".join(lines), flush=True)
    write_bytes(arguments.output, "\n".join([*lines, ""]).encode())


if __name__ == "__main__":
    run(main)
