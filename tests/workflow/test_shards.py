"""The data stages over several jobs: the same bytes, each share cached by itself, nothing made twice."""

import os
import shutil

import pytest
from project import CONFIG, Project, record

SHARDS = {"read_shard", "key_shard", "sketch_shard", "tokenize_shard"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("shards"), CONFIG + "dedupe: {near: true, threshold: 0.95}\n")
    made.raw.write_text("".join(record(number) + "\n" for number in range(3000)))
    return made


def test_shards_make_the_same_bytes_one_by_one_and_their_number_makes_nothing_again(project):
    data = project.folder / "results" / "data"
    assert not project.run("data") & SHARDS
    whole = {path.relative_to(data): path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert project.run("data", "--config", "data={shards: 3}") == set()
    shutil.rmtree(data)

    # Reading comes to a halt with all its parts made; one of them is lost.
    project.run("data", "--config", "data={shards: 3}", "--until", "read_shard", "--notemp")
    parts = sorted(path.name for path in data.rglob("*.part"))
    assert parts == [f"{index}-of-3.part" for index in (1, 2, 3)]
    next(data.rglob("2-of-3.part")).unlink()

    ran = project.run("data", "--config", "data={shards: 3}")
    assert ran >= SHARDS
    assert project.output.count("Finished jobid") and project.output.count("(Rule: read_shard)") == 1
    assert project.output.count("(Rule: tokenize_shard)") == 3
    assert {path.relative_to(data): path.read_bytes() for path in data.rglob("*") if path.is_file()} == whole
    assert project.run("data") == set()
    # A workflow that was killed while it joined parts again leaves them beside results that hold.
    left = next(data.glob("read_records/*")) / "parts" / "1-of-3.part"
    left.parent.mkdir()
    left.touch()
    os.utime(left, (0, 0))
    assert project.run("data", "--config", "data={shards: 7}") == set()
    assert not left.parent.exists()
