"""Stage sources: check each source's content, copy it to scratch if there is one, and list what was found.

Arguments:
    settings: operational settings: scratch, threads, work.
    output: stage.json to write.
    manifest: manifest to write.
"""

import os
from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Stage the sources that the workflow found."""
    arguments = parse_arguments(__doc__, "settings", "output", "manifest", facts=("output", "manifest"))
    from snaketune.core.atomic import write_json
    from snaketune.core.manifest import write_manifest
    from snaketune.storage.disks import Disks
    from snaketune.storage.stage_facts import facts_of, index_of
    from snaketune.storage.staging import stage_sources

    settings, work = arguments.settings, Path(arguments.settings["work"])
    disks = Disks.of(os.environ, work)
    sources = stage_sources(arguments.cfg["sources"], settings["scratch"], work, disks)
    facts = facts_of(sources)
    write_json(arguments.output, {**facts, **index_of(sources)})
    write_manifest(arguments.manifest, "stage_sources", [arguments.output], facts)


if __name__ == "__main__":
    run(main)
