"""List the variants that no configured run uses; with `--config prune=yes` remove them."""

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Find unused variants, print them with their size, and remove them when asked to."""
    arguments = parse_arguments(__doc__, "output")
    from snaketune.common.atomic import write_bytes
    from snaketune.config.pruning import find_unused, find_unused_work, remove

    cfg = arguments.cfg
    unused = find_unused(cfg["results"], set(cfg["variants"]), set(cfg["runs"]))
    unused += find_unused_work("work", cfg["results"], set(cfg["runs"]))
    if cfg["remove"]:
        remove(unused)
    verb = "Removed" if cfg["remove"] else "Unused"
    lines = [f"{verb}: {variant.path} ({variant.size / 1e6:,.1f} MB)" for variant in unused] or ["Nothing is unused."]
    if unused and not cfg["remove"]:
        lines.append("Remove them with: snakemake --cores 1 prune --config prune=yes")
    print("\n".join(lines), flush=True)
    write_bytes(arguments.output, "\n".join([*lines, ""]).encode())


if __name__ == "__main__":
    run(main)
