"""Generate the schema's JSON, its table and the types of its sections; --check only reports differences."""

import argparse
import sys
from pathlib import Path

from snaketune.config.documentation import readme, schema
from snaketune.config.typed_sections import section_modules

CONFIG = Path(__file__).parents[1] / "config"
SETTINGS = Path(__file__).parent / "snaketune/settings"


def main() -> int:
    """Write the generated files, or compare them, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with status 1 if a file differs")
    is_check = parser.parse_args().check
    wanted = {CONFIG / "schema.json": schema(), CONFIG / "README.md": readme(CONFIG / "presets")}
    wanted |= {SETTINGS / f"{name}.py": text for name, text in section_modules().items()}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if is_check:
        for path in stale:
            print(f"{path.name} differs from the schema: run `make generate`.", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
        print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
