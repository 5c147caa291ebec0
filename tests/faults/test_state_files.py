"""Files of state and facts that were emptied, cut, edited or given another type: the same command heals them."""

import json
import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from snaketune.core.atomic import write_json
from snaketune.core.cached_state import read_state, write_state
from snaketune.core.canonical import read_json
from snaketune.core.content_cache import SETTLED_NS
from snaketune.core.digests import DigestCache, file_digest
from snaketune.core.errors import DataError
from snaketune.core.manifest import read_manifest, write_manifest
from snaketune.core.outputs import MOST_KEPT_BYTES, forget_outputs, record_outputs
from snaketune.report.report_facts import _changed
from snaketune.storage.disks import Disk, Disks, DiskSpeed
from snaketune.storage.staging import stage_sources
from snaketune.workflow.lifecycle import remember_shards, shards_before, write_resolved
from snaketune.workflow.results.adopting import GROUPS, adopt_outputs
from snaketune.workflow.results.damage import drop_damaged_manifests, heal
from snaketune.workflow.results.provenance_notes import ResultDigests
from snaketune.workflow.results.unrecorded import drop_stale_notes
from snaketune.workflow.sources.hub_sources import HubSources
from snaketune.workflow.sources.remote_sources import RemoteSources

ROOT = Path(__file__).parents[2]
DAMAGE = [b"", b"{", b"[]", b"null", b"3", b'"x"', b"{}", b'{"a": []}', b'{"files": []}', b"\xff\xfe", b'{"files": 3}']
# Memories, and facts, which cost more.
FUZZED, FUZZED_FACTS = (10_000, 10_000) if "SNAKETUNE_SLOW" in os.environ else (500, 25)
WRONG = [None, 3, "x", [], {}, [1], {"a": 1}, True, -1.5]


def keep_time(path: Path, content: bytes) -> None:
    """Write ``content`` as an accident does that leaves size and mtime as they were, where the size allows."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Flip, cut, repeat or replace bytes, or put a value of another type somewhere into the document."""
    kind = chance.choice(["flip", "cut", "empty", "repeat", "type", "type", "type", "drop"])
    if kind in ("type", "drop"):
        document = json.loads(content)
        places = list(_places(document))
        holder, key = chance.choice(places)
        if kind == "drop" and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = chance.choice(WRONG)
        return json.dumps(document).encode()
    place = chance.randrange(len(content))
    return {
        "flip": content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :],
        "cut": content[:place],
        "empty": b"",
        "repeat": content[:place] + content[max(0, place - 9) :],
    }[kind]


def _places(value):
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder with bulk data, a manifest and facts, all of which are recorded."""
    monkeypatch.chdir(tmp_path)
    folder = Path("results/runs/one/lora-1")
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "weights").write_bytes(bytes(range(256)))
    write_manifest(folder / "adapter.manifest.json", "train_model", [folder / "adapter"], {"fingerprint": "f", "n": 1})
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    (folder / "evaluation.json").write_text('{"tuned": {"loss": 2.5, "n": 3}, "base": {"loss": 3.5}}')
    record_outputs([folder / "adapter.manifest.json", folder / "metrics.jsonl"])
    record_outputs([folder / "evaluation.json"])
    return folder


def wanted(folder):
    return [str(folder / name) for name in ("adapter.manifest.json", "evaluation.json", "facts.json")]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("content", DAMAGE)
def test_caches_are_made_again_with_a_line(tmp_path, capsys, content):
    cache, data = tmp_path / "digests.json", tmp_path / "data"
    data.write_text("content")
    cache.write_bytes(content)
    time.sleep(1.5 * SETTLED_NS / 1e9)
    digests = DigestCache(cache)
    assert digests.digest(data) == file_digest(data)
    digests.save()
    assert DigestCache(cache).knows(data)
    said = capsys.readouterr().err
    assert (f"{cache} is damaged" in said) == (content != b"{}")


def in_place_of(path: Path, kind: str) -> None:
    """Put something that is no file where one was."""
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        targets = {"a device": "/dev/zero", "a link to itself": path.name, "a link to nothing": "/no/where"}
        path.symlink_to(targets[kind])


KINDS = ("a pipe", "a device", "a folder", "a link to itself", "a link to nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_place_of_a_cache_neither_stops_nor_hangs(tmp_path, kind, capsys):
    path, data = tmp_path / "digests.json", tmp_path / "data"
    write_state(path, {})
    data.write_text("content")
    in_place_of(path, kind)
    time.sleep(1.5 * SETTLED_NS / 1e9)
    for _ in range(2):
        digests = DigestCache(path)
        assert digests.digest(data) == file_digest(data)
        digests.save()
    assert "Traceback" not in capsys.readouterr().err
    assert kind == "a folder" or read_state(path, lambda entry: True)


@pytest.mark.parametrize("name", ["adapter.manifest.json", "metrics.jsonl", "evaluation.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_place_of_a_result_is_made_again_or_named(run, kind, name, capsys):
    path = run / name
    in_place_of(path, kind)
    if kind == "a folder":
        with pytest.raises(DataError, match=f"{name} is damaged and cannot be rebuilt .*: remove that folder"):
            heal(wanted(run), "work")
        return
    heal(wanted(run), "work")
    assert not path.exists() or path.is_file()
    # What a job made alone and leads nowhere is missing, which Snakemake says itself.
    is_missing = name == "evaluation.json" and kind.startswith("a link")
    assert is_missing or f"{path} was deleted" in capsys.readouterr().err


def test_a_file_that_was_restored_before_is_still_missed_when_it_is_gone(run, capsys):
    before = contents(run)
    (run / "metrics.jsonl").write_text("edited")
    heal(wanted(run), "work")
    (run / "metrics.jsonl").unlink()
    heal(wanted(run), "work")
    assert f"{run / 'metrics.jsonl'} was deleted" in capsys.readouterr().err
    assert contents(run) == before


@pytest.mark.parametrize("kind", KINDS[:3])
def test_what_is_no_file_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "stage.json"
    path.write_text("{}")
    in_place_of(path, kind)
    with pytest.raises(DataError, match=r"stage\.json is not a regular file: delete it"):
        read_json(path)


def test_damaged_caches_are_no_traceback_and_no_lie(tmp_path, capsys):
    path, chance = tmp_path / "state.json", random.Random(1)
    values = {"a": [1, 2, 3, 4, "d"], "b": [5, 6, 7, 8, "e"]}
    write_state(path, values)
    content = path.read_bytes()
    for _ in range(FUZZED):
        path.write_bytes(mutated(content, chance))
        found = read_state(path, lambda entry: len(entry) == 5)
        assert all(values[name] == value for name, value in found.items())
    capsys.readouterr()


@pytest.mark.parametrize("content", [*DAMAGE, b'{"read_records/a": "x"}'])
def test_the_numbers_of_shards_are_found_out_again(tmp_path, content, capsys):
    path = tmp_path / "shards.json"
    path.write_bytes(content)
    assert shards_before(path) == {}
    remember_shards(path, {"read_records/a": 3})
    assert shards_before(path) == {"read_records/a": 3}
    capsys.readouterr()


@pytest.mark.parametrize("content", DAMAGE)
def test_other_memories_are_found_out_again(tmp_path, monkeypatch, content, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("remote_sources.json", "disks.json", "work/staging.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    assert HubSources("remote_sources.json")._remembered() == {}
    assert RemoteSources("remote_sources.json", is_asking=False)._remembered() == {}
    disks = Disks(
        [], "disks.json", lambda path: Disk(1, "ext4"), lambda folder: DiskSpeed(1.0, 2.0), lambda path: 10**12
    )
    assert disks.speed(tmp_path) == disks.speed(tmp_path) == DiskSpeed(1, 2)
    Path("a.jsonl").write_text('{"text": "x"}\n')
    stage_sources([{"path": "a.jsonl", "digest": file_digest("a.jsonl")}], None)
    assert read_json("work/staging.json")["a.jsonl"]["how"] == "in place"
    capsys.readouterr()


def test_a_memory_that_cannot_be_written_is_a_line(tmp_path, monkeypatch, capsys):
    def refuse(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("snaketune.core.cached_state.write_json", refuse)
    write_state(tmp_path / "digests.json", {"a": 1})
    assert "digests.json cannot be written (No space left on device)" in capsys.readouterr().err


def test_a_resolved_configuration_that_is_damaged_is_written_again(tmp_path):
    class Run:
        name, notes = "one", ()

        def flat(self):
            return {"a": 1}

    path = tmp_path / "one.json"
    path.write_text("{")
    write_resolved(path, Run(), [], [])
    assert read_json(path)["run"] == "one"


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b'{"files": []}', b'{"files": {"a": 3}}', b'{"files": {"../a": {}}}', b"{"]
)
def test_a_manifest_of_a_wrong_type_is_removed(tmp_path, content, capsys):
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(content)
    with pytest.raises(DataError, match=r"is no longer a valid manifest .* to rebuild the stage"):
        read_manifest(manifest)
    manifest.write_bytes(content)
    drop_damaged_manifests([str(manifest)], tmp_path / "cache.json")
    assert not manifest.exists()
    assert "it is rebuilt" in capsys.readouterr().err


def test_a_byte_that_flips_under_the_old_mtime_is_noticed(run, capsys):
    weights = run / "adapter" / "weights"
    keep_time(weights, b"\1" + weights.read_bytes()[1:])
    heal(wanted(run), "work")
    assert not (run / "adapter.manifest.json").exists()
    assert "weights was deleted or changed since it was made: it is rebuilt" in capsys.readouterr().err


def test_verify_reads_what_no_time_gives_away(run, monkeypatch, capsys):
    weights = run / "adapter" / "weights"
    weights.write_bytes(b"\1" + weights.read_bytes()[1:])
    # As if the disk had lost a bit: the manifest is the newer file.
    (run / "adapter.manifest.json").rename(run / "aside")
    (run / "adapter.manifest.json").write_bytes((run / "aside").read_bytes())
    (run / "aside").unlink()
    record_outputs([run / "adapter.manifest.json"])
    heal(wanted(run), "work")
    assert (run / "adapter.manifest.json").exists()
    heal(wanted(run), "work", verify=True)
    assert not (run / "adapter.manifest.json").exists()
    capsys.readouterr()


@pytest.mark.parametrize("name", ["evaluation.json", "metrics.jsonl", "adapter.manifest.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"tuned": {"loss": 0.1}}'])
def test_an_edited_fact_is_restored_with_its_time(run, name, content, capsys):
    before, time = contents(run), (run / name).stat().st_mtime_ns
    (run / name).write_bytes(content)
    heal(wanted(run), "work")
    assert contents(run) == before and (run / name).stat().st_mtime_ns == time
    assert f"{name} was changed since it was made: its content is restored" in capsys.readouterr().err
    heal(wanted(run), "work")
    assert capsys.readouterr().err == ""


def test_fuzzed_facts_come_back_byte_for_byte(run, capsys):
    before, chance = contents(run), random.Random(2)
    for _ in range(FUZZED_FACTS):
        name = chance.choice(["evaluation.json", "adapter.manifest.json"])
        keep_time(run / name, mutated(before[name], chance))
        heal(wanted(run), "work")
        assert contents(run) == before
    capsys.readouterr()


def test_a_fact_that_is_deleted_is_made_again_by_its_job(run, capsys):
    (Path("work") / "runs" / "f").mkdir(parents=True)
    (run / "metrics.jsonl").unlink()
    heal(wanted(run), "work")
    assert not (run / "adapter.manifest.json").exists()  # a target: its job runs again
    assert (run / "evaluation.json").exists()
    assert "metrics.jsonl was deleted or changed since it was made: it is rebuilt" in capsys.readouterr().err


def test_no_training_is_repeated_for_a_file_whose_content_is_known(run, capsys):
    before = contents(run)
    (run / "metrics.jsonl").unlink()
    heal(wanted(run), "work")
    assert contents(run) == before
    assert "its training is no longer in work/runs" in capsys.readouterr().err


def test_a_deleted_run_is_simply_to_be_made(run, capsys):
    for path in run.glob("*.json*"):
        path.unlink()
    heal(wanted(run), "work")
    assert capsys.readouterr().err == "" and not list(Path("work/outputs").rglob("*.json"))


def test_a_fact_that_is_too_long_to_be_kept_is_made_again(run, capsys):
    long = run / "generations.jsonl"
    long.write_bytes(b"x" * (MOST_KEPT_BYTES + 1))
    record_outputs([long, run / "evaluation.json"])
    keep_time(long, b"y" * (MOST_KEPT_BYTES + 1))
    heal(wanted(run), "work")
    assert not long.exists() and not (run / "evaluation.json").exists()
    capsys.readouterr()


def test_what_another_project_may_have_made_again_is_left_alone(run, capsys):
    (run / "evaluation.json").write_text('{"tuned": {"loss": 1.0}}')
    heal(wanted(run), "work", shared={str(run)})
    assert read_json(run / "evaluation.json") == {"tuned": {"loss": 1.0}}
    heal(wanted(run), "work")
    assert read_json(run / "evaluation.json") == {"tuned": {"loss": 1.0}}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"[]", b'{"tuned": '])
def test_facts_without_a_record_have_to_be_readable(run, content, capsys):
    forget_outputs([run / "evaluation.json"])
    (run / "evaluation.json").write_bytes(content)
    heal(wanted(run), "work")
    assert not (run / "evaluation.json").exists()
    assert "evaluation.json is damaged: it is rebuilt" in capsys.readouterr().err


def test_facts_are_watched_again_after_work_was_removed(run, capsys):
    before = contents(run)
    shutil.rmtree("work")
    heal(wanted(run), "work")
    adopt_outputs(run)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.1}\n')
    (run / "evaluation.json").unlink()
    heal(wanted(run), "work")
    assert contents(run) == {name: content for name, content in before.items() if name != "evaluation.json"}
    assert "metrics.jsonl was changed since it was made: its content is restored" in capsys.readouterr().err


def note(folder: Path) -> None:
    """Note beside the results what their jobs wrote, as a workflow does at its end."""
    contents = ResultDigests(Path("results"), DigestCache("work/digests.json"))
    jobs = {"train_model": ("adapter.manifest.json", "metrics.jsonl"), "evaluate_model": ("evaluation.json",)}
    entries = {}
    for rule, names in jobs.items():
        paths = [str((folder / name).relative_to("results")) for name in names]
        facts = {"wildcards": {}, "spec": "s", "benchmark": "", "inputs": {}}
        entries[f"{rule} one"] = {**facts, "outputs": {path: contents.of(path) for path in paths}}
    write_json(folder / ".made.json", entries)


@pytest.mark.parametrize("content", [b'{"tuned": 3}', b'{"tuned": {"loss": 1.0, "n": 3}}', b'{"base": [null]}'])
def test_a_fact_that_is_edited_while_there_is_no_record_is_made_again(run, content, capsys):
    note(run)
    shutil.rmtree("work")
    (run / "evaluation.json").write_bytes(content)
    heal(wanted(run), "work")
    assert not (run / "evaluation.json").exists() and (run / "adapter.manifest.json").exists()
    assert (
        "evaluation.json was changed since it was made, and no record of its content is left" in capsys.readouterr().err
    )


def test_no_training_is_repeated_for_facts_beside_it(run, capsys):
    note(run)
    shutil.rmtree("work")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    heal(wanted(run), "work")
    assert (run / "metrics.jsonl").exists() and (run / "adapter.manifest.json").exists()
    assert (
        "metrics.jsonl was changed since it was made, and its training is no longer in work" in capsys.readouterr().err
    )
    (Path("work") / "runs" / "f").mkdir(parents=True)
    heal(wanted(run), "work")  # its state gives the facts again at once
    assert not (run / "metrics.jsonl").exists() and not (run / "adapter.manifest.json").exists()


def test_a_note_that_a_later_job_has_overtaken_is_dropped_while_there_are_records(run, capsys):
    note(run)
    (run / "evaluation.json").write_text('{"tuned": {"loss": 1.0}}')
    record_outputs([run / "evaluation.json"])  # by a workflow that was killed before it could note it
    drop_stale_notes(run, "work")
    assert list(read_json(run / ".made.json")) == ["train_model one"]
    shutil.rmtree("work")
    heal(wanted(run), "work")
    assert read_json(run / "evaluation.json") == {"tuned": {"loss": 1.0}}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"step": 1}\n{"st'])
def test_what_cannot_be_read_is_not_watched(run, content):
    shutil.rmtree("work")
    (run / "metrics.jsonl").write_bytes(content)
    adopt_outputs(run)
    watched = {path.name.removesuffix(".json") for path in Path("work/outputs").rglob("*.json")}
    assert watched == {"evaluation.json"} | ({"metrics.jsonl", "adapter.manifest.json"} if content == b"" else set())


def test_what_is_watched_is_what_the_jobs_record():
    rules = "\n".join(file.read_text() for file in (ROOT / "rules").glob("*.smk"))
    rules = rules.replace("{{", "{").replace("}}", "}")  # of commands that are f-strings
    groups = set()
    for rule in re.split(r"^(?:rule|checkpoint) ", rules, flags=re.MULTILINE):
        script = re.search(r"python (scripts/\w+\.py)", rule)
        facts = re.search(r"facts=\(([^)]*)\)", (ROOT / script[1]).read_text()) if script else None
        if facts:
            files = re.findall(
                r'(?:(\w+)=)?(?:(?:\w+\()?\s*"<results>/(?:\S+/)?|shown\(")([\w.{}]+)"', rule.partition("output:")[2]
            )
            keys = dict(re.findall(r"--(\w+) \{output\.?(\w*)(?:\[\d])?:q}", rule))
            names = [keys[fact] for fact in re.findall(r'"(\w+)"', facts[1]) if fact in keys]
            made = tuple(sorted(dict(files)[name] for name in names))
            groups |= {tuple(name.replace("{kind}", kind) for name in made) for kind in ("adapter", "merged")}
    assert groups == set(GROUPS)


@pytest.mark.parametrize("content", DAMAGE)
def test_a_damaged_record_is_dropped(run, content, capsys):
    (record,) = Path("work/outputs").rglob("evaluation.json.json")
    record.write_bytes(content)
    (run / "evaluation.json").write_text('{"a": 1}')
    heal(wanted(run), "work")
    assert read_json(run / "evaluation.json") == {"a": 1} and not record.exists()
    capsys.readouterr()


def test_the_report_says_which_facts_do_not_match(run):
    given = [run / "evaluation.json", run / "metrics.jsonl", run / "adapter.manifest.json"]
    assert _changed(given) == ()
    keep_time(run / "evaluation.json", b'{"tuned": {"loss": 1.5, "n": 3}, "base": {"loss": 3.5}}')
    assert _changed(given) == ("evaluation.json",)
    assert _changed([run / "metrics.jsonl"]) == ()


def test_damage_in_a_place_that_cannot_be_written_to_is_a_sentence(run, monkeypatch):
    def refuse(path, *arguments, **options):
        raise OSError(30, "Read-only file system", str(path))

    (run / "evaluation.json").write_text("{")
    monkeypatch.setattr("snaketune.core.outputs.write_bytes", refuse)
    with pytest.raises(DataError, match=r"evaluation.json is damaged and cannot be rebuilt \(Read-only"):
        heal(wanted(run), "work")


def test_an_edit_within_one_step_of_the_kernels_clock_is_noticed(run, capsys):
    before = contents(run)
    (run / "evaluation.json").write_bytes(b"")
    (run / "adapter" / "weights").write_bytes(bytes(256))
    # A ctime cannot be set: the files written last get the edited file's instead.
    for written, last in {
        run / "evaluation.json": Path("work/outputs") / run / "evaluation.json.json",
        run / "adapter" / "weights": run / "adapter.manifest.json",
    }.items():
        os.utime(last, ns=(written.stat().st_ctime_ns,) * 2)
    heal(wanted(run), "work")
    assert contents(run) == {
        name: content for name, content in (before | {"weights": bytes(256)}).items() if name != "adapter.manifest.json"
    }
    capsys.readouterr()
