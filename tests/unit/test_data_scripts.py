import gzip
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from data_files import PAIR

from snaketune.common.digests import file_digest

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


def dedupe(**options):
    outputs = {"kept": "d/kept.jsonl", "duplicates": "d/duplicates.jsonl", "manifest": "d/manifest.json"}
    return script("dedupe_records", {"dedupe": {"exact": True}}, records="r/records.jsonl", **outputs, **options)


def split(test_size=0.05, **options):
    outputs = {"train": "p/train.jsonl", "eval": "p/eval.jsonl", "manifest": "p/manifest.json"}
    cfg = {"split": {"test_size": test_size, "seed": 0}}
    return script("split_records", cfg, records="d/kept.jsonl", **outputs, **options)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def entry(name, content):
    Path(name).write_bytes(content)
    return {"path": name, "digest": file_digest(name)}


def files(*folders):
    return {str(path): path.read_bytes() for folder in folders for path in Path(folder).rglob("*") if path.is_file()}


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
    assert_refused(stage([entry("x.jsonl", PAIR)], scratch="file"), 1, "s")


def test_reading_restages_on_a_wiped_scratch():
    assert stage([entry("x.jsonl", PAIR)], scratch="nvme").returncode == 0
    for path in sorted(Path("nvme").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert read(scratch="nvme").returncode == 0
    assert [path.name for path in Path("nvme").rglob("x.jsonl")] == ["x.jsonl"]


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
