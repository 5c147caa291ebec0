"""Publish runs: upload the changed files of their folders to the hub or object storage, verified, in a safe order.

Arguments:
    settings: operational settings: scratch, threads, work.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Publish the runs one after the other."""
    arguments = parse_arguments(__doc__, "settings")
    from snaketune.publish.hub_upload import publish_runs

    publish_runs(arguments.cfg["runs"], arguments.cfg["private"], arguments.settings["work"])


if __name__ == "__main__":
    run(main)
