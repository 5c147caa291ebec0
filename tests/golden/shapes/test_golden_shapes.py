"""Files of every shape, as people have them: the exact records and the account, or the sentence and its cures.

Each line that a refusal tells its reader to write is tried on the file that earned it. After a wanted change,
`python tests/golden/shapes/test_golden_shapes.py` writes the expected files again; review them like code.
"""

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
import yaml

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[2] / "scripts")]

from snaketune.core.digests import file_digest  # noqa: E402
from snaketune.core.errors import ConfigError, DataError  # noqa: E402
from snaketune.data.records.accounting import summary_of  # noqa: E402
from snaketune.data.records.reading import read_records  # noqa: E402
from snaketune.data.records.reading_policy import ReadingPolicy  # noqa: E402
from snaketune.storage.copy_targets import NamedSource  # noqa: E402

CASES = sorted(path.name for path in (HERE / "cases").iterdir())
LINE = re.compile(r"data\.(columns|ignore|roles|strip): (\{[^{}]*\}|\[(?:\"[^\"]*\"|[^\[\]\"])*\])")
# Files that no line of the configuration can help: images, one message on each line, no answer.
WITHOUT_CURE = {
    *("images_column.jsonl", "message_tree_flat.jsonl", "one_utterance_a_line.jsonl", "blank_output.jsonl"),
}
# What the owner of a file would write for it.
NAMED = {
    "context_named_in_columns.jsonl": {"prompt": "question", "completion": "response", "input": "context"},
    "named_columns_lose.jsonl": {"prompt": "question", "completion": "answer"},
    "system_named_in_columns.jsonl": {"prompt": "question", "completion": "response", "system": "system_prompt"},
}


def outcome(name, **policy):
    """Read a case and return its records and account, or the sentence of the refusal."""
    path = HERE / "cases" / name
    source = NamedSource(name, path.stat().st_size, file_digest(path))
    with TemporaryDirectory() as folder:
        files = [Path(folder) / part for part in ("records", "quarantine", "kept")]
        with open(files[0], "wb") as records, open(files[1], "wb") as quarantine:
            try:
                facts = read_records([(source, path)], ReadingPolicy(**policy), records, quarantine, files[2])
            except (ConfigError, DataError) as error:
                return {"refused": str(error).replace(folder, "…")}
        made, aside = ([orjson.loads(line) for line in part.read_bytes().splitlines()] for part in files[:2])
    reasons = [f"line {entry['line']}: {entry['reason']}, {entry['detail']}" for entry in aside]
    return {"said": summary_of(facts), "account": facts["sources"][0], "set_aside": reasons, "records": made}


def cures_in(sentence):
    """Return the lines to write that a sentence has; where one leads to the next, those for all at once."""
    _, _, all_of_them = sentence.partition("all needed lines are ")
    if all_of_them:
        return [{key: yaml.safe_load(value) for key, value in LINE.findall(all_of_them)}]
    return [{key: yaml.safe_load(value)} for key, value in LINE.findall(sentence)]


def everything(name):
    """Return what becomes of a case, as it is, as its owner names it, and with each cure."""
    found = {"as it is": outcome(name)}
    if name in NAMED:
        found["named"] = outcome(name, columns=NAMED[name])
    for cure in cures_in(found["as it is"].get("refused", "")):
        found[orjson.dumps(cure).decode()] = outcome(name, **cure)
    return found


def expected_of(name):
    return orjson.loads((HERE / "expected" / f"{name}.json").read_bytes())


@pytest.mark.parametrize("name", CASES)
def test_every_shape_is_read_exactly_or_refused_with_lines_that_work(name):
    found = everything(name)
    assert found == expected_of(name)
    as_it_is = found.pop("as it is")
    if "refused" in as_it_is and name not in WITHOUT_CURE:
        assert found, "a refusal names a line to write"
    assert [words for words, result in found.items() if "refused" in result] == []


@pytest.mark.parametrize("name", CASES)
def test_every_line_of_a_file_is_a_record_or_set_aside(name):
    for words, result in expected_of(name).items():
        if "records" in result:
            account = result["account"]
            assert account["lines"] == account["records"] + account["quarantined"], words
            assert len(result["records"]) == account["records"], words
            assert len(result["set_aside"]) == account["quarantined"], words


if __name__ == "__main__":
    for case in CASES:
        made = orjson.dumps(everything(case), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        (HERE / "expected" / f"{case}.json").write_bytes(made)
