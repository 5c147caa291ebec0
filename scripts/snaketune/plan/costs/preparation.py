"""What preparing the data and the model took: Snakemake measures every job and keeps it in benchmarks/."""

from collections.abc import Mapping
from pathlib import Path


def preparation_seconds(benchmarks: Mapping[str, str]) -> dict[str, float]:
    """Return the seconds of each stage that was measured; a stage without a file, or with a strange one, is left out.

    Args:
        benchmarks: path of the file of each stage: a header and one line, the seconds first.
    """
    found = {stage: _seconds(Path(path)) for stage, path in benchmarks.items()}
    return {stage: seconds for stage, seconds in found.items() if seconds is not None}


def _seconds(path: Path) -> float | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return float(lines[1].split("\t")[lines[0].split("\t").index("s")])
    except (OSError, ValueError, IndexError):
        return None
