"""What the tests of the data path share: raw lines, source files and one reading of them."""

import json
from types import SimpleNamespace

import orjson

from snaketune.core.atomic import writing
from snaketune.core.digests import file_digest
from snaketune.data.records.reading import read_records
from snaketune.data.records.reading_policy import ReadingPolicy
from snaketune.storage.copy_targets import NamedSource

PAIR = b'{"prompt":"a","completion":"b"}'
CHAT = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}'
ALPACA = b'{"instruction":"a","input":"","output":"b"}'
TEXT = b'{"text":"a"}'
SHARE = b'{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}'
CHOICE = b'{"prompt":"a","chosen":"b","rejected":"c"}'
GOOD = {
    "prompt_completion": PAIR,
    "messages": CHAT,
    "instruction": ALPACA,
    "text": TEXT,
    "sharegpt": SHARE,
    "preference": CHOICE,
}


def source(path, content=None, name=None):
    """Return the source at ``path``, after writing ``content`` to it, with the place where it lies."""
    if content is not None:
        path.write_bytes(content)
    return NamedSource(name or str(path), path.stat().st_size, file_digest(path)), path


def lines_of(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def read(folder, *sources, threads=1, **policy):
    """Read the sources into ``folder/out`` and return facts, records and quarantine."""
    out = folder / "out"
    with writing(out / "records.jsonl") as records, writing(out / "quarantine.jsonl") as quarantine:
        facts = read_records(sources, ReadingPolicy(**policy), records, quarantine, folder / "kept.jsonl", threads)
    return SimpleNamespace(
        facts=facts, records=lines_of(out / "records.jsonl"), quarantine=lines_of(out / "quarantine.jsonl")
    )


def read_bytes(folder, content, name="x.jsonl", **policy):
    """Read one source with the given content; the default policy tolerates any number of bad lines."""
    return read(folder, source(folder / name, content), **{"max_bad_fraction": 1.0, **policy})


def chat(*turns):
    """Return a raw line of a conversation from (role, content) pairs."""
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}).encode()


def canonical(path, *records):
    """Write canonical records, each a text or a list of (role, content), and return ``path``."""
    with open(path, "wb") as file:
        for line, record in enumerate(records, 1):
            content = (
                {"text": record}
                if isinstance(record, str)
                else {"messages": [{"role": role, "content": text} for role, text in record]}
            )
            file.write(orjson.dumps({"source": 0, "line": line, **content}) + b"\n")
    return path
