import gzip
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
import pytest
from data_files import PAIR

from snaketune.core.digests import file_digest
from snaketune.storage.disks import disk_of

SCRIPTS = Path(__file__).parents[2] / "scripts"
READING = {"format": "auto", "columns": {}, "system_prompt": None, "max_bad_fraction": 0.05}


def script(name, cfg, hash_seed="0", **arguments):
    """Run a script as a rule does; names of files are given relative to the working directory."""
    spec = orjson.dumps({"stage": name, "code": "", "cfg": cfg}).decode()
    command = [sys.executable, SCRIPTS / f"{name}.py", "--spec", spec]
    command += [part for key, value in arguments.items() for part in (f"--{key}", value)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONHASHSEED": hash_seed}
    )


def stage(sources, scratch=None, **options):
    settings = orjson.dumps({"scratch": scratch, "threads": 1, "work": "work"}).decode()
    cfg = {"data": {"sources": []}, "sources": sources}
    return script("stage_sources", cfg, settings=settings, output="s/stage.json", manifest="s/manifest.json", **options)


def read(scratch=None, reading=READING, **options):
    settings = orjson.dumps({"scratch": scratch, "threads": 1, "work": "work"}).decode()
    outputs = {"records": "r/records.jsonl", "quarantine": "r/quarantine.jsonl", "manifest": "r/manifest.json"}
    return script("read_records", {"data": reading}, settings=settings, stage="s/stage.json", **outputs, **options)


def dedupe(near=False, threads=1, **options):
    settings = orjson.dumps({"scratch": None, "threads": threads, "work": "work"}).decode()
    names = ("removed.arrow", "kept.jsonl", "duplicates.jsonl", "manifest.json")
    outputs = {name.split(".")[0]: f"d/{name}" for name in names}
    cfg = {"dedupe": {"exact": True, "near": near}}
    return script("dedupe_records", cfg, settings=settings, records="r/records.jsonl", **outputs, **options)


def split(test_size=0.05, threads=1, evaluations=(), max_similarity=None, **options):
    settings = orjson.dumps({"scratch": None, "threads": threads, "work": "work"}).decode()
    outputs = {
        name.split(".")[0]: f"p/{name}" for name in ("train.jsonl", "eval.jsonl", "leaks.jsonl", "manifest.json")
    }
    cfg = {"split": {"test_size": test_size, "seed": 0, "max_similarity": max_similarity}, "evaluations": evaluations}
    return script("split_records", cfg, settings=settings, records="d/kept.jsonl", **outputs, **options)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def entry(name, content):
    Path(name).write_bytes(content)
    return {"path": name, "digest": file_digest(name)}


def files(*folders):
    return {str(path): path.read_bytes() for folder in folders for path in Path(folder).rglob("*") if path.is_file()}


def scratch_files():
    """Return what lies in the private folder beside the notes of staging, which stay."""
    return [path for path in files("work") if not Path(path).name.startswith("staging.")]


def assert_refused(result, code, *folders):
    """One sentence, the right status and nothing left behind."""
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert not files(*folders)


def test_the_quickstart_goes_all_the_way_and_everything_adds_up():
    for step in (lambda: stage([{"path": "builtin:quickstart", "digest": "builtin"}]), read, dedupe, split):
        result = step()
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
    reading, dedupe_facts, splitting = (orjson.loads(Path(f, "manifest.json").read_bytes()) for f in "rdp")
    assert (reading["records"], reading["quarantined"]) == (4040, 5)
    assert reading["sources"][0]["lines"] == 4045
    assert (dedupe_facts["records_in"], dedupe_facts["kept"], dedupe_facts["removed"]) == (4040, 4000, 40)
    assert splitting["train"] + splitting["eval"] == 4000
    assert 150 < splitting["eval"] < 250


def test_two_runs_give_the_same_bytes_whatever_the_hash_seed():
    lines = b"".join(b'{"z":1,"prompt":"%d","b%d":2,"completion":"x"}\n' % (n // 3, n % 7) for n in range(100))
    sources = [
        entry("x.jsonl", lines + b"oops\n" + b'{"prompt":""}\n'),
        entry("y.jsonl.gz", gzip.compress(lines, mtime=0)),
    ]
    results = []
    for seed in ("1", "77"):
        assert stage(sources, hash_seed=seed).returncode == 0
        assert [step(hash_seed=seed).returncode for step in (read, dedupe, split)] == [0, 0, 0]
        results.append(files("s", "r", "d", "p"))
    assert results[0] == results[1]
    assert str(Path.cwd()).encode() not in b"".join(results[0].values())


def test_near_duplicates_and_leaks_are_the_same_bytes_for_any_number_of_processes_and_leave_no_scratch():
    rng = random.Random(1)
    texts = [" ".join(rng.choices(["one", "two", "three", "red", "blue", "green"], k=60)) for _ in range(300)]
    texts += [f"{text} {'and more ' * (number % 9)}" for number, text in enumerate(texts)]
    texts += [f"{text} {' '.join(rng.choices('uvwxyz', k=20))}" for text in texts[:100]]
    entries = [entry("x.jsonl", b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts))]
    Path("questions.txt").write_text(texts[5] + "\n")
    evaluations = [{"path": "questions.txt", "digest": file_digest("questions.txt")}]
    stage(entries)
    read()
    results = []
    for seed, threads in (("1", 1), ("2", 2)):
        steps = (
            dedupe(near=True, threads=threads, hash_seed=seed),
            split(0.2, threads, evaluations, 0.5, hash_seed=seed),
        )
        assert [step.returncode for step in steps] == [0, 0], steps
        results.append(files("d", "p"))
    assert results[0] == results[1]
    facts = [orjson.loads(Path(folder, "manifest.json").read_bytes()) for folder in "dp"]
    assert facts[0]["removed_near"] > 100
    assert facts[1]["dropped_similar"] > 0
    assert facts[1]["dropped_contaminated"] == 2
    kept = facts[1]["train"] + facts[1]["eval"] + facts[1]["dropped_similar"] + facts[1]["dropped_contaminated"]
    assert kept == facts[0]["kept"]
    assert not scratch_files()


def test_a_failure_leaves_no_scratch_and_no_output():
    stage([entry("x.jsonl", b"".join(b'{"text":"%d"}\n' % number for number in range(50)))])
    read()
    Path("r/records.jsonl").write_bytes(Path("r/records.jsonl").read_bytes() + b"damaged\n")
    assert_refused(dedupe(near=True), 3, "d")
    assert not scratch_files()


def test_a_missing_source_leaves_one_sentence():
    assert_refused(stage([{"path": "no.jsonl", "digest": "0" * 32}]), 3, "s")


def test_a_source_that_disappears_or_changes_after_staging_leaves_one_sentence():
    stage([entry("x.jsonl", PAIR)])
    Path("x.jsonl").write_bytes(PAIR * 2)
    assert_refused(read(), 3, "r")
    Path("x.jsonl").unlink()
    assert_refused(read(), 3, "r")


def test_a_scratch_that_cannot_be_used_leaves_one_sentence():
    Path("file").touch()
    assert_refused(stage([entry("x.jsonl", PAIR)], scratch="file"), 3, "s")


@pytest.fixture
def other_disk():
    """A folder on another filesystem than the sources."""
    if not os.access("/dev/shm", os.W_OK) or Path("/dev/shm").stat().st_dev == Path.cwd().stat().st_dev:
        pytest.skip("there is no other filesystem to write to")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder) / "nvme"


def test_reading_restages_on_a_wiped_scratch(other_disk):
    assert stage([entry("x.jsonl", PAIR)], scratch=str(other_disk)).returncode == 0
    shutil.rmtree(other_disk)
    assert read(scratch=str(other_disk)).returncode == 0
    assert [path.name for path in other_disk.rglob("x.jsonl")] == ["x.jsonl"]
    assert orjson.loads(Path("work/staging.json").read_bytes())["x.jsonl"]["how"] == "copy"


def test_auto_reads_in_place_what_lies_on_a_local_disk():
    if not disk_of(".").is_local:
        pytest.skip("the tests do not run on a local disk")
    assert stage([entry("x.jsonl", PAIR)], scratch="auto").returncode == 0
    assert read(scratch="auto").returncode == 0
    assert orjson.loads(Path("work/staging.json").read_bytes())["x.jsonl"]["place"] == "x.jsonl"


def test_reading_says_what_it_took_each_source_for():
    stage([entry("x.jsonl", PAIR), entry("y.jsonl", b'{"text":"a"}\n{"text":"b"}\n')])
    assert read().stdout == (
        "Read x.jsonl as prompt_completion: 1 record, 0 lines quarantined; prompt/completion in 1 of 1 records.\n"
        "Read y.jsonl as text: 2 records, 0 lines quarantined; text in 2 of 2 records.\n"
    )


def test_too_many_bad_lines_leave_one_sentence_and_the_quarantine_where_it_says():
    stage([entry("x.jsonl", PAIR + b"\noops\n")])
    result = read()
    assert_refused(result, 3, "r")
    assert "1 of 2 lines" in result.stderr
    assert "work/quarantine/r.jsonl" in result.stderr
    assert orjson.loads(Path("work/quarantine/r.jsonl").read_bytes())["line"] == 2


def test_a_truncated_gzip_leaves_one_sentence():
    packed = gzip.compress(b"".join(b'{"text":"%d"}\n' % (number * 7919) for number in range(9999)))
    stage([entry("x.jsonl.gz", packed[:-20])])
    assert_refused(read(), 3, "r")


def test_wrong_columns_leave_one_sentence():
    stage([entry("x.jsonl", PAIR)])
    assert_refused(read(reading={**READING, "columns": {"prompt": "question"}}), 3, "r")
    assert_refused(read(reading={**READING, "columns": {"promt": "question"}}), 2, "r")


def test_a_split_without_training_records_leaves_one_sentence():
    stage([entry("x.jsonl", PAIR)])
    read()
    dedupe()
    assert_refused(split(), 3, "p")
