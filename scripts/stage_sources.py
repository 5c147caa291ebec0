"""Stage sources: verify them, copy them to the scratch disk when there is one, and write what they are."""

from pathlib import Path

from snaketune.common.atomic import write_json
from snaketune.common.door import parse_arguments, run
from snaketune.common.manifest import write_manifest
from snaketune.data.staging import Source, locate


def main() -> None:
    """Stage every source and write stage.json."""
    arguments = parse_arguments(__doc__, "settings", "output", "manifest")
    settings = arguments.settings
    staged = []
    for entry in arguments.cfg["sources"]:
        _, source = locate(Source(**entry), settings["scratch"], Path(settings["work"]) / "builtin")
        staged.append(source.facts())
    write_json(arguments.output, {"sources": staged})
    write_manifest(arguments.manifest, "stage_sources", [arguments.output], {"bytes": sum(s["bytes"] for s in staged)})


if __name__ == "__main__":
    run(main)
