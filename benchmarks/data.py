"""The whole data path, stage to packed rows, as users run it: `python benchmarks/data.py --records 35000 350000`.

It makes a corpus for each size (or takes the JSON lines given with --input), runs `snakemake data` on it in a temporary
copy of the workflow and prints, per stage, wall seconds, CPU seconds and peak memory of its job, and what became of the
records. Preparing the base model (a tokenizer of 32,768 tokens learned from the corpus) is no part of the data path and
not counted. Targets on 2 idle cores: 350,000
records in at most 90 s and 2 GB, linear from 35,000 to 350,000 within 15%, 2,000,000 records in at most 5 minutes.

How the stages compare with other tools is measured by reading.py, near_dedupe.py and tokens.py beside this file.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from corpus import write_corpus
from workflow import SNAKEMAKE, copy

STAGES = (
    "stage_sources",
    "read_records",
    "dedupe_records",
    "split_records",
    "tokenize_records",
    "rightsize",
    "pack_rows",
)
CONFIG = """
data: {{sources: [{source}]}}
model:
  name_or_path: tiny
  tiny: {{corpus: data, vocab_size: 32768, pretrain_steps: 0, max_position_embeddings: 16384}}
dedupe: {{near: true}}
split: {{max_similarity: 0.5}}
tokens: {{max_length: 4096, on_too_long: truncate}}
"""


def main() -> None:
    """Measure every size asked for and print all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[35_000])
    parser.add_argument("--input", type=Path, help="JSON lines to use instead of a generated corpus")
    parser.add_argument("--cores", default="2")
    arguments = parser.parse_args()
    sizes = [0] if arguments.input else arguments.records
    figures = [measure(size, arguments.input, arguments.cores) for size in sizes]
    if len(figures) > 1:
        first, last = figures[0], figures[-1]
        growth = last["seconds"] / first["seconds"] / (last["records"] / first["records"])
        figures.append({"seconds_per_record_last_to_first": round(growth, 3)})
    print(json.dumps(figures, indent=2))


def measure(records: int, given: Path | None, cores: str) -> dict:
    """Return the figures of one size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy(folder)
        source = folder / "corpus.jsonl"
        if given:
            source.symlink_to(given.resolve())
        else:
            write_corpus(source, None, records)
        (folder / "config" / "config.yaml").write_text(CONFIG.format(source=source.name))
        seconds = timed(folder, cores, "split_records")
        timed(folder, cores, "prepare_model")
        seconds += timed(folder, cores)
        stages = {stage: job_figures(folder, stage) for stage in STAGES}
        facts = json.loads(next(folder.glob("results/data/read_records/*/manifest.json")).read_bytes())
        packed = json.loads(next(folder.glob("results/data/pack_rows/*/manifest.json")).read_bytes())
        return {
            "records": facts["records"],
            "megabytes": round(source.stat().st_size / 1e6, 1),
            "seconds": round(seconds, 1),
            "peak_mb": max(stage["peak_mb"] for stage in stages.values()),
            "packing_efficiency": packed["splits"]["train"]["efficiency"],
            "stages": stages,
        }


def timed(folder: Path, cores: str, last: str | None = None) -> float:
    """Run the data path, up to the rule ``last`` if one is named, and return its wall seconds."""
    started = time.monotonic()
    command = [SNAKEMAKE, "--cores", cores, *(["--until", last] if last else []), "--", "data"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.monotonic() - started


def job_figures(folder: Path, stage: str) -> dict[str, float]:
    """Return wall seconds, CPU seconds and peak resident memory (MB) of a stage's job as Snakemake sampled them."""
    with open(next(folder.glob(f"benchmarks/{stage}/*.tsv"))) as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    number = {key: float(value) for key, value in row.items() if key in ("s", "cpu_time", "max_rss") and value != "NA"}
    return {"seconds": number["s"], "cpu_seconds": number.get("cpu_time", 0.0), "peak_mb": number.get("max_rss", 0.0)}


if __name__ == "__main__":
    main()
