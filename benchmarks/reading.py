"""Measure reading JSON lines beside what others do: `python benchmarks/reading.py --megabytes 200`.

It makes its own corpus, seeded, and writes to a temporary folder. Each figure is that of a whole process with its
children, start-up included: CPU seconds, wall seconds, and the resident memory of its largest process at its peak. Only
ours and "stdlib json" check every line, set bad ones aside and write canonical records; the others parse and, at best,
store. Containers hold the same records, and their megabytes are those of the JSON lines. The table goes to standard
error, JSON to standard output; ratios are within one run.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]

FORMATS = ("messages", "prompt_completion")
CONTAINERS = ("array", "pretty", "csv", "parquet", "arrow")
BLOCK_BYTES = 16 << 20


def write_corpus(path: Path, size: int, form: str, shortest: int, seed: int) -> int:
    """Write lines of at least ``shortest`` bytes until there are ``size`` bytes, and return their number."""
    import orjson
    from corpus import line_at, record_of

    written = number = count = 0
    with open(path, "wb") as file:
        while written < size:
            number += 1
            line = orjson.dumps(record_of(line_at(seed, number), form), option=orjson.OPT_APPEND_NEWLINE)
            if len(line) >= shortest:
                written, count = written + file.write(line), count + 1
    return count


def ours(path: Path, folder: Path, form: str, processes: int) -> None:
    """Run the stage as the workflow does."""
    from snaketune.core.digests import file_digest

    stage = {"sources": [{"path": str(path), "bytes": path.stat().st_size, "digest": file_digest(path)}]}
    (folder / "stage.json").write_text(json.dumps(stage))
    reading = {"format": "auto", "columns": {}, "system_prompt": None, "max_bad_fraction": 0.05}
    settings = {"scratch": None, "threads": processes, "work": str(folder)}
    outputs = {name: str(folder / name) for name in ("records", "quarantine", "manifest")}
    options = {"spec": json.dumps({"cfg": {"data": reading}}), "settings": json.dumps(settings), **outputs}
    options["stage"] = str(folder / "stage.json")
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    os.execv(sys.executable, [sys.executable, str(ROOT / "scripts" / "read_records.py"), *arguments])


def standard_json(path: Path, folder: Path, form: str) -> None:
    """Do the same work with the parser of the standard library, line by line."""
    from snaketune.data.formats.formats import default_reading
    from snaketune.data.records.conversion import RecordConverter
    from snaketune.data.records.exactness import repetition_check
    from snaketune.data.records.quarantine import RefusedLine
    from snaketune.data.records.reading_policy import ReadingPolicy

    policy = ReadingPolicy()
    reading = default_reading(form, policy)
    convert, check = RecordConverter(reading, policy), repetition_check(reading)
    with open(path, "rb") as lines, open(folder / "records", "w") as out, open(folder / "quarantine", "w") as bad:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                made = convert(record)
                check(line, record)
            except (ValueError, RefusedLine) as error:
                bad.write(json.dumps({"line": number, "reason": str(error)}) + "\n")
                continue
            text = json.dumps({"source": 0, "line": number, **made}, ensure_ascii=False, separators=(",", ":"))
            out.write(text + "\n")


def orjson_only(path: Path, folder: Path, form: str) -> None:
    """Parse and nothing else."""
    import orjson

    with open(path, "rb") as lines:
        for line in lines:
            orjson.loads(line)


def arrow_json(path: Path, folder: Path, form: str) -> None:
    """Parse with an explicit schema into record batches."""
    import pyarrow as pa
    from pyarrow import json as reader

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    columns = {"messages": [("messages", pa.list_(turn))]}
    schema = pa.schema(columns.get(form, [("prompt", pa.string()), ("completion", pa.string())]))
    pa.set_cpu_count(2)
    options = reader.ReadOptions(block_size=BLOCK_BYTES)
    for _ in reader.open_json(path, options, reader.ParseOptions(explicit_schema=schema)):
        pass


def datasets_json(path: Path, folder: Path, form: str) -> None:
    """Parse into the cache of `datasets`."""
    import datasets

    datasets.disable_progress_bars()
    datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder / "cache"))


def write_containers(path: Path) -> None:
    """Write the records of a file of JSON lines once more in every container, beside it."""
    import csv

    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = path.read_bytes().splitlines()
    records = [orjson.loads(line) for line in lines]
    container_of(path, "array").write_bytes(b"[" + b",\n".join(lines) + b"]")
    pretty = (orjson.dumps(record, option=orjson.OPT_INDENT_2) for record in records)
    container_of(path, "pretty").write_bytes(b"\n".join(pretty))
    table = pa.Table.from_pylist(records)
    pq.write_table(table, container_of(path, "parquet"))
    with pa.ipc.new_file(container_of(path, "arrow"), table.schema) as arrow:
        arrow.write_table(table, max_chunksize=1000)
    if not any(isinstance(value, list) for value in records[0].values()):
        with open(container_of(path, "csv"), "w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, list(records[0]))
            rows.writeheader()
            rows.writerows(records)


def container_of(path: Path, kind: str) -> Path:
    """Return where the records of ``path`` are in another container."""
    return path.with_suffix(f".{kind}")


def contained(kind: str) -> "Contender":
    """Return the contender that reads the same records from another container."""
    return lambda path, folder, form: ours(container_of(path, kind), folder, form, 1)


Contender = Callable[[Path, Path, str], None]
CONTENDERS: dict[str, tuple[str, Contender]] = {
    "read_records, 1 process": ("orjson", lambda path, folder, form: ours(path, folder, form, 1)),
    "read_records, 2 processes": ("orjson", lambda path, folder, form: ours(path, folder, form, 2)),
    **{f"read_records, {kind}": ("pyarrow", contained(kind)) for kind in CONTAINERS},
    "stdlib json, same checks": ("json", standard_json),
    "orjson.loads alone": ("orjson", orjson_only),
    "pyarrow.json, schema given": ("pyarrow", arrow_json),
    "datasets.load_dataset": ("datasets", datasets_json),
}


def measure(name: str, path: Path, form: str) -> dict[str, float]:
    """Run a contender in a process of its own and return what it cost."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, __file__, "--contender", name, "--corpus", str(path), "--format", form]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": folder}
        start = time.perf_counter()
        process = subprocess.Popen([*command, "--folder", folder], env=environment, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{name} ended with status {process.returncode}.")
    return figures(used, wall, path.stat().st_size)


def figures(used: resource.struct_rusage, wall: float, size: int) -> dict[str, float]:
    """Return megabytes per CPU second, CPU and wall seconds, and peak resident megabytes of the largest process."""
    cpu = used.ru_utime + used.ru_stime
    return {"mb_per_cpu_s": size / 1e6 / cpu, "cpu_s": cpu, "wall_s": wall, "peak_rss_mb": used.ru_maxrss * 1024 / 1e6}


def compare(path: Path, form: str, repeats: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the medians of every contender that is installed; in each round all of them take their turn."""
    present = [name for name, (module, _) in CONTENDERS.items() if find_spec(module)]
    present = [name for name in present if name != "read_records, csv" or container_of(path, "csv").exists()]
    rounds = [{name: measure(name, path, form) for name in present} for _ in range(repeats)]
    first: dict[str, Any] = {}
    for name in present:
        found = {key: median(one[name][key] for one in rounds) for key in rounds[0][name]}
        first = first or found
        yield name, {**found, "ratio": first["mb_per_cpu_s"] / found["mb_per_cpu_s"]}


def main() -> None:
    """Measure everything, or run one contender."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--format", choices=FORMATS, default="messages")
    parser.add_argument("--shortest", type=int, default=0, help="leave out lines of fewer bytes")
    parser.add_argument("--corpus", type=Path, help="JSON lines of that format to use instead")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write-containers", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        CONTENDERS[arguments.contender][1](arguments.corpus, arguments.folder, arguments.format)
        return
    if arguments.write_containers:
        write_containers(arguments.corpus)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.jsonl"
        if arguments.corpus:
            path.symlink_to(arguments.corpus.resolve())
        else:
            write_corpus(path, int(arguments.megabytes * 1e6), arguments.format, arguments.shortest, arguments.seed)
        with open(path, "rb") as file:
            records = sum(1 for _ in file)
        # In a process of its own: what this one holds would count as memory of those that it starts.
        subprocess.run([sys.executable, __file__, "--corpus", str(path), "--write-containers"], check=True)
        load, results = os.getloadavg()[0], dict(compare(path.absolute(), arguments.format, arguments.repeats))
        report(path.stat().st_size, records, load, results)


def report(size: int, records: int, load: float, results: dict[str, dict[str, float]]) -> None:
    """Print the table and the JSON."""
    print(
        f"{records:,} records, {size / 1e6:.1f} MB, {size / records:.0f} bytes each; load {load:.1f}", file=sys.stderr
    )
    print(f"{'':28}{'MB/CPU-s':>9}{'CPU s':>8}{'wall s':>8}{'peak MB':>9}{'ours is':>9}", file=sys.stderr)
    for name, row in results.items():
        columns = f"{row['mb_per_cpu_s']:9.0f}{row['cpu_s']:8.2f}{row['wall_s']:8.2f}{row['peak_rss_mb']:9.0f}"
        print(f"{name:28}{columns}{row['ratio']:8.1f}x", file=sys.stderr)
    rounded = {name: {key: round(value, 3) for key, value in row.items()} for name, row in results.items()}
    print(json.dumps({"records": records, "bytes": size, "load": load, "results": rounded}, indent=2))


if __name__ == "__main__":
    main()
