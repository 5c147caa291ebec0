"""Split records: hold out a fraction of the prompts, decided by each prompt alone."""

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Decide which records are held out, then copy every line to its side."""
    arguments = parse_arguments(__doc__, "records", "train", "eval", "manifest")
    from snaketune.common.atomic import writing
    from snaketune.common.manifest import write_manifest
    from snaketune.data.splitting import carry_out, plan_split

    settings = arguments.cfg["split"]
    held_out = plan_split(arguments.records, settings["test_size"], settings["seed"])
    with writing(arguments.train) as train, writing(arguments.eval) as evaluation:
        carry_out(held_out, arguments.records, train, evaluation)
    facts = {"train": int((~held_out).sum()), "eval": int(held_out.sum())}
    write_manifest(arguments.manifest, "split_records", [arguments.train, arguments.eval], facts)


if __name__ == "__main__":
    run(main)
