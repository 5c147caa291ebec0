"""Generate config/schema.json and config/README.md from the schema; with --check only tell whether they differ."""

import sys
from pathlib import Path

from snaketune.config.documentation import readme, schema

CONFIG = Path(__file__).parents[1] / "config"


def main() -> int:
    """Write the generated files, or compare them, and return the exit status."""
    wanted = {CONFIG / "schema.json": schema(), CONFIG / "README.md": readme(CONFIG / "presets")}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.name} differs from the schema: run `make generate`.", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
        print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
