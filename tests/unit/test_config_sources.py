"""Sources of the configuration: files, folders and objects with settings of their own."""

from pathlib import Path

import pytest

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.workflow.sources import bounded_walks
from snaketune.workflow.sources.inputs import ExternalInputs, expand_paths
from snaketune.workflow.sources.matching_files import find_files
from snaketune.workflow.stages import slice_of, stage_id


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)


def resolved(*sources, **data):
    file = {"data": {"sources": list(sources), **data}, "model": {"name_or_path": "tiny"}}
    return resolve_runs(Layer("c", file), {}, "nowhere")[0].config


def looked_up(*sources, **data):
    config, found = resolved(*sources, **data), ExternalInputs("digests.json")
    found.look_up(config)
    return found.sources(config), list(found.notes), found.outside("split_records", config)


def test_any_name_is_taken_and_read_as_what_it_is():
    write("a.ndjson", "b.JSONL", "c", "d.parquet", "e.txt")
    assert expand_paths(["a.ndjson", "b.JSONL", "c", "*.parquet", "e.txt"]) == [
        "a.ndjson",
        "b.JSONL",
        "c",
        "d.parquet",
        "e.txt",
    ]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("data\\train.jsonl", "data/train.jsonl"),
        ("'data/train.jsonl'", "data/train.jsonl"),
        ("data/train.jsonl\u00a0", "data/train.jsonl"),
        ("\u201cdata/train.jsonl\u201d", "data/train.jsonl"),
        ("Data/Train.JSONL", "data/train.jsonl"),
        ("data/trian.jsonl", "data/train.jsonl"),
        ("data/cafe\u0301.jsonl", "data/caf\u00e9.jsonl"),
        ("C:\\Users\\me\\train.jsonl", "/mnt/c/Users/me/train.jsonl, which is what WSL calls it"),
        ("elsewhere/train.jsonl", None),
        ("data/other.jsonl", None),
        ("data/*.csv", None),
    ],
)
def test_a_path_that_leads_nowhere_names_the_nearest_one(given, meant):
    write("data/train.jsonl", "data/caf\u00e9.jsonl")
    with pytest.raises(ConfigError) as error:
        expand_paths([given])
    said = str(error.value)
    assert f"did you mean {meant}?" in said if meant else "check the path; relative paths start at" in said


def test_a_file_that_is_removed_while_it_is_read_is_called_so(monkeypatch):
    write("a.jsonl")
    found = ExternalInputs("digests.json")

    def gone(path):
        Path(path).unlink()
        return Path(path).read_bytes()

    monkeypatch.setattr(found._cache, "digest", gone)
    with pytest.raises(ConfigError, match=r"a\.jsonl cannot be read .*: it was removed meanwhile"):
        found.look_up(resolved("a.jsonl"))


def test_a_folder_is_its_data_files_and_what_is_left_out_is_said():
    write(
        *(
            "f/train-0.parquet",
            "f/train-1.parquet",
            "f/test.jsonl",
            "f/val/x.csv",
            "f/README.md",
            "f/dataset_infos.json",
        ),
        "f/.cache/train.jsonl",
    )
    entries, notes, _ = looked_up("f")
    assert [entry["path"] for entry in entries] == ["f/train-0.parquet", "f/train-1.parquet"]
    assert notes == [
        "data.sources: in f the files of other splits are left out: test.jsonl, val/x.csv; set `split:` to select"
        ' others. To evaluate on them, write evaluate.files: ["f/test.jsonl", "f/val/x.csv"].',
        "data.sources: in f files that are not data files are left out: README.md, dataset_infos.json.",
    ]


def test_a_folder_without_names_of_splits_is_all_its_data_files():
    write("f/part/b.csv.gz", "f/a.json", "f/latest.ndjson")
    entries, notes, _ = looked_up("f")
    assert [entry["path"] for entry in entries] == ["f/a.json", "f/latest.ndjson", "f/part/b.csv.gz"]
    assert notes == []


@pytest.mark.parametrize(("split", "name"), [("test", "test.csv"), ("validation", "dev.csv"), ("val", "dev.csv")])
def test_a_split_of_a_folder_is_chosen_by_name(split, name):
    write("f/train.csv", "f/test.csv", "f/dev.csv")
    entries, _, _ = looked_up({"path": "f", "split": split})
    assert [entry["path"] for entry in entries] == [f"f/{name}"]


def test_saved_data_sets_are_read_in_their_order(place):
    import datasets

    rows = datasets.Dataset.from_list([{"text": str(n)} for n in range(6)])
    rows.save_to_disk("one", num_shards=2)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk("two")
    entries, notes, _ = looked_up("one")
    assert [entry["path"] for entry in entries] == [f"one/data-0000{n}-of-00002.arrow" for n in range(2)]
    entries, notes, _ = looked_up("two")
    assert [entry["path"] for entry in entries] == ["two/train/data-00000-of-00001.arrow"]
    assert notes == ["data.sources: reading the split 'train' of the data set two; left out: test."]
    assert looked_up({"path": "two", "split": "test"})[0][0]["path"].startswith("two/test/")
    with pytest.raises(ConfigError, match="has no split 'dev': write `split:` with one of those it has: train, test"):
        looked_up({"path": "two", "split": "dev"})
    (place / "one" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(ConfigError, match=r"one lacks data-00001-of-00002\.arrow"):
        looked_up("one")


def test_a_file_that_is_given_twice_is_read_once_and_that_is_said(place):
    write("a.jsonl", "b.jsonl")
    (place / "link.jsonl").symlink_to("a.jsonl")
    entries, notes, _ = looked_up("a.jsonl", "[ab].jsonl", "./b.jsonl", "link.jsonl")
    assert [entry["path"] for entry in entries] == ["a.jsonl", "b.jsonl"]
    assert notes == [
        "data.sources: a.jsonl is matched again by [ab].jsonl (and 2 more files): it is read once; `weight` repeats it."
    ]
    with pytest.raises(ConfigError, match=r"a\.jsonl is given twice with different settings"):
        looked_up({"path": "a.jsonl", "weight": 2}, "*.jsonl")


def test_home_and_variables_stand_in_paths(place, monkeypatch):
    write("home/a.jsonl", "$HOME.jsonl")
    monkeypatch.setenv("HOME", str(place / "home"))
    wanted = str(place / "home" / "a.jsonl")
    assert expand_paths(["~/a.jsonl", "$HOME/a.jsonl", "${HOME}/*.jsonl"]) == [wanted]
    assert expand_paths(["$HOME.jsonl"]) == ["$HOME.jsonl"]


def test_settings_of_a_source_reach_its_entry_and_a_plain_path_stays_one():
    write("a.jsonl", "b.jsonl")
    one = {"path": "b.jsonl", "name": "B", "format": "text", "columns": {"text": "t"}, "weight": 2, "max_records": 5}
    entries, _, outside = looked_up({"path": "a.jsonl"}, one)
    assert "options" not in entries[0]
    assert entries[1]["options"] == {key: value for key, value in one.items() if key != "path"}
    assert entries[1]["part"] == 1
    assert outside == {"mixing": {"weights": [1.0, 2.0], "seed": 0}}
    assert resolved({"path": "a.jsonl"}).data.sources == ["a.jsonl"]
    assert resolved("a.jsonl") == resolved({"path": "a.jsonl", "weight": 1.0})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "x"},
        {"format": "text"},
        {"columns": {"text": "t"}},
        {"split": "train"},
        {"config": "c"},
        {"weight": 2},
        {"max_records": 3},
    ],
)
def test_every_setting_of_a_source_is_part_of_the_identity(change):
    one, other = resolved("a.jsonl"), resolved({"path": "a.jsonl", **change})
    assert slice_of(one, "stage_sources") != slice_of(other, "stage_sources")
    assert stage_id(one, "read_records") != stage_id(other, "read_records")
    assert stage_id(other, "read_records").startswith("a-")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"path": "a", "wieght": 2}, "wieght is not a key of a source, did you mean weight"),
        ({"weight": 2}, "path: field required"),
        ({"path": "a", "weight": 0}, "weight: input should be greater than 0"),
        ({"path": "a", "max_records": 0}, "max_records: input should be greater than or equal to 1"),
        (7, "a source is a path, or keys of which `path` is one"),
    ],
)
def test_a_wrong_source_is_one_sentence(source, words):
    with pytest.raises(ConfigError, match=words):
        resolved(source)


@pytest.mark.parametrize("source", ["data", "data/**/*.jsonl", "./data/**", "d*/**/*.none", "*/*/*", "./d*/*/*.x"])
@pytest.mark.parametrize("key", ["data.sources", "evaluate.files"])
def test_a_source_that_is_half_a_disk_is_one_sentence(monkeypatch, source, key):
    write(*(f"data/{part}/{number}.jsonl" for part in "abc" for number in range(9)))
    monkeypatch.setattr(bounded_walks, "MOST_ENTRIES", 30)
    find_files("data/**/*.jsonl", key)
    write("data/d/1.jsonl")
    with pytest.raises(ConfigError) as error:
        find_files(source, key)
    assert str(error.value).startswith(f"{key}: {source} stands for over 30 files and folders: name the folder")


def test_links_that_lead_in_circles_are_one_sentence(place, monkeypatch):
    write("data/a.jsonl")
    (place / "data" / "one").symlink_to(place / "data")
    (place / "data" / "two").symlink_to(place / "data")
    monkeypatch.setattr(bounded_walks, "MOST_ENTRIES", 3000)
    assert len(find_files("data", "data.sources").paths) == 1
    with pytest.raises(ConfigError, match="stands for over 3,000"):
        find_files("data/**/*.jsonl", "data.sources")


@pytest.mark.parametrize("beginning", [b"", b'{"text": "a"}\n'])
def test_a_file_that_is_nearly_all_hole_is_refused_at_once(place, beginning):
    with open(place / "x.jsonl", "wb") as file:
        file.write(beginning)
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=r"x\.jsonl has 1,099\.5 GB, nearly all of them zeros .*: get the whole file"):
        find_files("x.jsonl", "data.sources")
