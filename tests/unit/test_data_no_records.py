"""Sources without a record: what they are, and the command that makes records of them, run on what earned it."""

import json
import re
import shutil
import subprocess

import pytest
from data_files import read, source

from snaketune.core.errors import DataError

PAIRS = [{"prompt": f"q {number}", "completion": f"a {number}"} for number in range(4)]


def refused(tmp_path, content, name="x"):
    with pytest.raises(DataError) as raised:
        read(tmp_path, source(tmp_path / name, content))
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("iconv")), reason="jq or iconv is not installed")
@pytest.mark.parametrize(
    ("name", "content", "what", "records"),
    [
        ("x.csv", "prompt,completion\nGröße?,schön\n".encode("cp1252"), "not UTF-8 text", 1),
        ("x.json", f"{json.dumps(PAIRS)}\n{json.dumps(PAIRS)}\n".encode(), "lists of records on its lines", 8),
        ("x.txt", b"One paragraph.\n\nAnother one.\n", "plain text", 1),
    ],
)
def test_the_command_of_the_sentence_makes_records(tmp_path, name, content, what, records):
    said = refused(tmp_path, content, name)
    assert what in said
    command = re.search(r"`((?:jq|iconv) .*?)`", said)[1]
    made = tmp_path / f"made{name[1:]}"
    line = command.replace("FILE", name).partition(" > ")[0]
    made.write_bytes(subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, check=True).stdout)
    assert read(tmp_path, source(made), columns={}).facts["records"] == records


def test_a_table_with_some_rows_in_another_encoding_is_told_how_to_convert_it(tmp_path):
    rows = ["v1,v2"] + ["ham,Ok lar"] * 80 + ["spam,Only £5 today"] * 20
    with pytest.raises(DataError, match=r"20 invalid_utf8.*convert the file, for example `iconv -f CP1252 -t UTF-8"):
        read(
            tmp_path,
            source(tmp_path / "x.csv", "\n".join(rows).encode("cp1252")),
            columns={"prompt": "v2", "completion": "v1"},
        )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0" * 500, "neither text nor a known file type"),
        (bytes(range(256)) * 9, "neither text nor a known file type"),
        (b"42\n", "are JSON but not objects"),
        (b"null", "are JSON but not objects"),
        (b"[]", "has no record"),
        (b"a,b\n", "plain text"),
    ],
)
def test_what_holds_no_records_is_one_sentence(tmp_path, content, words):
    assert words in refused(tmp_path, content)
