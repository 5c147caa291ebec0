"""Results whose times were lost are told from results that are out of date."""

import os
import time
from types import SimpleNamespace

import pytest

from snaketune.core.canonical import digest_of, read_json
from snaketune.core.errors import ConfigError
from snaketune.core.manifest import write_manifest
from snaketune.workflow.results.provenance_notes import (
    NOTE_FILE,
    JobIdentity,
    in_order,
    note_proofs,
    order_before_jobs,
    proofs_in,
    put_in_order,
)
from snaketune.workflow.snakemake_internals import Snakemake

MADE = ("rows", "manifest.json")
LATE, EARLY = 1_700_000_000_000_000_000, 1_000_000_000_000_000_000


def job(rule, spec, inputs, outputs, benchmark=None):
    facts = {"params": {"spec": spec}, "input": inputs, "output": outputs, "benchmark": benchmark}
    return SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards_dict={"id": rule}, **facts)


class Ancient(str):
    is_ancient = True


class Temporary(str):
    flags = ("temp",)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Results of two jobs that are noted, the second one's older than the first one's, and where to put them right."""
    monkeypatch.chdir(tmp_path)
    results, work = tmp_path / "results", tmp_path / "work"
    for stage in ("first", "second"):
        folder = results / stage / "id"
        (folder / "rows").mkdir(parents=True)
        (folder / "rows" / "part").write_text(f"rows of {stage}")
        (folder / "bulk").write_text(f"bulk of {stage}")
        write_manifest(folder / "manifest.json", stage, [folder / "rows", folder / "bulk"], {})
    one, two = (results / stage / "id" for stage in ("first", "second"))
    (results / "old").write_text("not looked at")
    jobs = [
        job("one", "spec 1", [], [f"{one}/bulk", f"{one}/rows", f"{one}/manifest.json"]),
        job(
            "two",
            "spec 2",
            [f"{one}/bulk", Ancient(results / "old")],
            [f"{two}/rows", f"{two}/manifest.json"],
            "two.tsv",
        ),
        job("gone", "spec 3", [f"{two}/bulk"], [f"{two}/temporary"]),
        job("kept", "spec 4", [f"{one}/bulk"], [Temporary(two / "bulk")]),
    ]
    note_proofs(jobs, results, work)
    set_times(one, LATE)
    set_times(two, EARLY)
    return SimpleNamespace(one=one, two=two, put=lambda specs=SPECS: put_in_order([two, one], results, work, specs))


def SPECS(proof):
    return {"one": "spec 1", "two": "spec 2"}.get(proof.rule)


def set_times(folder, time):
    for path in (folder / "bulk", folder / "rows", folder / "rows" / "part", folder / "manifest.json"):
        os.utime(path, ns=(time, time))


def times(folder):
    return {(folder / name).stat().st_mtime_ns for name in MADE}


def test_what_is_proven_gets_times_in_order_once(made):
    assert sorted(read_json(made.two / NOTE_FILE)) == ["two two"]
    assert list(read_json(made.two / NOTE_FILE)["two two"]["inputs"]) == ["first/id/bulk"]
    assert made.put() == 1
    assert times(made.two) == {LATE}
    assert made.put() == 0


def test_a_time_that_is_still_to_come_is_not_passed_on(made):
    set_times(made.one, time.time_ns() + 10**15)
    assert made.put() == 0
    assert times(made.two) == {EARLY}


@pytest.mark.parametrize("change", ["input", "output", "note", "spec", "rule"])
def test_what_is_out_of_date_stays_so(made, change):
    specs = SPECS
    if change == "input":  # its job ran again and made something else
        (made.one / "bulk").write_text("bulk of others")
        write_manifest(made.one / "manifest.json", "first", [made.one / "rows", made.one / "bulk"], {})
    elif change == "output":
        (made.two / "rows" / "part").write_text("ROWS of second")
    elif change == "note":
        (made.two / NOTE_FILE).write_text('{"two two": {"spec": 1}}')
    else:
        specs = (lambda proof: "another spec") if change == "spec" else (lambda proof: None)
    set_times(made.one, LATE)
    set_times(made.two, EARLY)
    assert made.put(specs) == 0
    assert times(made.two) == {EARLY}


def test_the_time_of_a_folder_is_that_of_its_stamp(made):
    stamp = made.two / "rows" / ".snakemake_timestamp"
    stamp.touch()
    os.utime(stamp, ns=(EARLY, EARLY))
    os.utime(made.two / "rows", ns=(LATE, LATE))
    os.utime(made.two / "manifest.json", ns=(LATE, LATE))
    assert made.put() == 1
    assert stamp.stat().st_mtime_ns == LATE


def test_what_snakemake_measured_of_a_job_counts_where_it_is(made, tmp_path):
    assert made.put() == 1
    (tmp_path / "two.tsv").touch()
    os.utime(tmp_path / "two.tsv", ns=(EARLY, EARLY))
    assert made.put() == 1
    assert (tmp_path / "two.tsv").stat().st_mtime_ns == LATE


def test_notes_that_contradict_each_other_end():
    one, two = (
        JobIdentity(name, {}, digest_of(name), {a: ""}, {b: ""}) for name, a, b in (("x", "a", "b"), ("y", "b", "a"))
    )
    assert sorted(proof.rule for proof in in_order([one, two])) == ["x", "y"]


def test_damaged_notes_prove_nothing(tmp_path):
    for content in ("", "[]", "{", '{"x": []}'):
        (tmp_path / NOTE_FILE).write_text(content)
        assert proofs_in(tmp_path) == []


@pytest.mark.parametrize("error", [KeyError("gone"), ConfigError("gone")])
def test_notes_of_a_run_that_is_configured_no_more_prove_nothing(made, tmp_path, error):
    """A renamed run keeps its folder, and the notes in it, under the new name."""

    def spec(wildcards):
        raise error

    workflow = SimpleNamespace(
        _prepare_dag=lambda: "drawn",
        is_rule=lambda name: True,
        get_rule=lambda name: SimpleNamespace(params={"spec": spec}),
    )
    order_before_jobs(Snakemake(workflow), [made.one, made.two], tmp_path / "results", tmp_path / "work")
    assert workflow._prepare_dag() == "drawn"
    assert times(made.two) == {EARLY}
