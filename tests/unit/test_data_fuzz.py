"""Raw lines that are wrong in every known way: located, counted, and never changed in silence."""

import json
import os
import random
import tracemalloc

import pytest
from data_files import lines_of, read, source

from snaketune.data.records.reading import read_records
from snaketune.data.records.reading_policy import ReadingPolicy
from snaketune.report.run.funnel import REASONS

ROW = b'{"id":"g%d","instruction":"do %d","input":"","output":"ok ok ok ok ok"}'
GOOD = [ROW % (number, number) for number in range(10)]
LINES = 100_000 if "SNAKETUNE_SLOW" in os.environ else 20_000
HUGE = b'{"id":"h","instruction":"x","input":"","output":"' + b"A" * (40 << 20) + b'"}'


def amid(line):
    return [*GOOD[:5], line, *GOOD[5:]]


# The 25 files of the study: content, then the lines that are refused with their reasons.
FILES = {
    "ok": (GOOD, {}),
    "invalid_json": (amid(b'{"id":"bad","instruction": oops}'), {6: "not_json"}),
    "truncated_last": ([*GOOD, GOOD[0][:30]], {11: "not_json"}),
    "bom": ([b"\xef\xbb\xbf" + GOOD[0], *GOOD[1:]], {}),
    "crlf": ([line + b"\r" for line in GOOD], {}),
    "nul_raw": (amid(b'{"id":"nul","instruction":"a\x00b","input":"","output":"x"}'), {6: "not_json"}),
    "nul_escaped": (amid(b'{"id":"nul","instruction":"a\\u0000b","input":"","output":"x"}'), {}),
    "nul_padding": ([*GOOD, b"\0" * 64], {11: "not_json"}),
    "invalid_utf8": (amid(b'{"id":"u8","instruction":"caf\xe9 \xff","input":"","output":"x"}'), {6: "invalid_utf8"}),
    "lone_surrogate": (amid(b'{"id":"s","instruction":"\\ud800 x","input":"","output":"x"}'), {6: "lone_surrogate"}),
    "dup_keys": (
        amid(b'{"id":"dk","instruction":"first","instruction":"second","input":"","output":"x"}'),
        {6: "duplicate_key"},
    ),
    "huge_line": (amid(HUGE), {6: "line_too_long"}),
    "missing_field": (amid(b'{"id":"m","instruction":"only"}'), {6: "missing_field"}),
    "extra_field": (amid(b'{"id":"e","instruction":"a","input":"","output":"x","score":1.5,"tags":["a"]}'), {}),
    "type_conflict": (amid(b'{"id":7,"instruction":{"x":1},"input":"","output":"x"}'), {6: "wrong_type"}),
    "mixed_schema": (
        amid(b'{"id":"mm","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"yo"}]}'),
        {6: "missing_field"},
    ),
    "null_content": (
        amid(b'{"id":"nc","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":null}]}'),
        {6: "missing_field"},
    ),
    "content_parts": (
        amid(b'{"id":"cp","messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]}'),
        {6: "missing_field"},
    ),
    "blank_lines": ([*GOOD[:5], b"", b"   ", *GOOD[5:]], {}),
    "two_on_line": (amid(GOOD[0] + GOOD[1]), {6: "not_json"}),
    "top_array": (amid(b"[1,2,3]"), {6: "not_an_object"}),
    "nan": (amid(b'{"id":"nan","instruction":"a","input":"","output":"x","score":NaN}'), {6: "nan_literal"}),
    "bigint": (amid(b'{"id":"bi","instruction":"a","input":"","output":"x","n":123456789012345678901234567890}'), {}),
    "deep": (
        amid(b'{"id":"dp","instruction":"a","input":"","output":"x","n":' + b"[" * 3000 + b"]" * 3000 + b"}"),
        {6: "too_deep"},
    ),
    "ls_u2028": (amid('{"id":"ls","instruction":"a\u2028b\u0085c","input":"","output":"x"}'.encode()), {}),
}


@pytest.mark.parametrize("name", FILES)
def test_each_bad_file_of_the_study_is_located_by_line(tmp_path, name):
    lines, refused = FILES[name]
    content = b"\n".join(lines) + (b"" if name == "truncated_last" else b"\n")
    found = read(tmp_path, source(tmp_path / "x.jsonl", content), max_bad_fraction=1.0)
    assert found.facts["sources"][0]["format"] == "instruction"
    assert {entry["line"]: entry["reason"] for entry in found.quarantine} == refused
    for entry in found.quarantine:
        assert content[entry["offset"] :].startswith(lines[entry["line"] - 1][:100])
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()}
    assert {record["line"] for record in found.records} == set(range(1, len(lines) + 1)) - blank - set(refused)
    for record in found.records:
        raw = json.loads(lines[record["line"] - 1].removeprefix(b"\xef\xbb\xbf"))
        assert [turn["content"] for turn in record["messages"]] == [raw["instruction"], raw["output"]]


WORDS = ["ok", "  two ", "\u00e9\u4f60\U0001f600", "a\u2028b\u0085c", '"quoted" \\ back', "<|im_end|>", "2024-01-01"]
WORDS += ["\0", ""]
PIECES = [
    *(
        b"\\ud800",
        b"\\udc00",
        b"\\u0000",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\0",
        b"\r",
        b"\xef\xbb\xbf",
        b"\x1f\x8b",
    ),
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"null",
        b"12345678901234567890123",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
    ),
    *("\u2028".encode(), b"[" * 1100, b'"role":"user",', b'"prompt":"twice",', b'"weight":0,', b" "),
]
SPEAKERS = {"role": ("user", "assistant", "system", "tool"), "from": ("human", "gpt", "system", "tool")}


def any_record(rng):
    def text():
        return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 5)))

    def turns(*keys):
        speakers = {"role": ("user", "assistant", "system", "tool"), "from": ("human", "gpt", "system", "tool")}[
            keys[0]
        ]
        order = rng.choice(["ua", "ua", "sua", "uaua", "uata", "au", "u", "uaa", "sus"])
        made = [{keys[0]: speakers["uast".index(who)], keys[1]: text()} for who in order]
        if rng.random() < 0.2:
            made[-1][rng.choice(["weight", "name", "tool_calls", "tool_call_id"])] = rng.choice([0, 1, None, "x", []])
        if rng.random() < 0.1:
            made[0][keys[1]] = rng.choice([None, 3, [{"type": "text", "text": text()}], [{"type": "image"}], {"a": 1}])
        return made

    return rng.choice(
        [
            lambda: {"messages": turns("role", "content")},
            lambda: {"conversations": turns("from", "value"), "system": rng.choice([None, text()])},
            lambda: {"prompt": text(), "completion": text()},
            lambda: {
                "prompt": rng.choice([text(), turns("role", "content")]),
                "completion": turns("role", "content")[1:],
            },
            lambda: {"prompt": text(), "chosen": text(), "rejected": rng.choice([text(), turns("role", "content")])},
            lambda: {"instruction": text(), "input": rng.choice(["", None, text()]), "output": text()},
            lambda: {"text": text()},
        ]
    )()


def mutated(rng):
    """Return a line, two out of three damaged in up to three places."""
    line = json.dumps(any_record(rng), ensure_ascii=rng.random() < 0.5).encode()
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        start = rng.randrange(len(line) + 1)
        match rng.randrange(5):
            case 0:
                line = line[:start] + rng.choice(PIECES) + line[start:]
            case 1:
                line = line[:start] + line[start + rng.randrange(1, 20) :]
            case 2:
                line = line[:start]
            case 3:
                line = line[:start] + bytes([rng.randrange(256)]) + line[start + 1 :]
            case _:
                line += line[start:]
    return line.replace(b"\n", b"")


def texts_of(raw, form):
    """Return the texts that a raw record holds, read by the standard library, in the order of the canonical one."""

    def content(value):
        return "".join(part if type(part) is str else part["text"] for part in value) if type(value) is list else value

    def contents(turns):
        return [content(turn["content"] if "content" in turn else turn["value"]) for turn in turns]

    match form:
        case "messages":
            return contents(raw["messages"])
        case "sharegpt":
            own, turns = raw["conversations"][0], contents(raw["conversations"])
            system = [raw["system"]] if (raw.get("system") or "").strip() else []
            if own.get("from", own.get("role")) == "system":
                return system + turns[1:] if system and not turns[0] else turns
            return system + turns
        case "prompt_completion":
            sides = [[side] if type(side) is str else contents(side) for side in (raw["prompt"], raw["completion"])]
            return sides[0] + sides[1]
        case "instruction":
            given = raw.get("input")
            asked = [text for text in (raw["instruction"], given) if text and not text.isspace()]
            return ["\n\n".join(asked), raw["output"]]
        case "text":
            return [raw["text"]]
    sides = [value if type(value) is list else [value] for value in (raw["prompt"], raw["chosen"], raw["rejected"])]
    return [text if type(text) is str else contents([text])[0] for side in sides for text in side]


def texts_in(record):
    """Return the texts of a canonical record."""
    if "text" in record:
        return [record["text"]]
    turns = [*record["messages"], *record.get("chosen", ()), *record.get("rejected", ())]
    return [turn["content"] for turn in turns]


@pytest.fixture(scope="module")
def fuzz():
    rng = random.Random(48)
    return [mutated(rng) for _ in range(LINES)]


@pytest.mark.parametrize("form", ["messages", "sharegpt", "preference", "prompt_completion", "instruction", "text"])
def test_mutated_lines_are_records_with_their_exact_texts_or_located(tmp_path, fuzz, form):
    given = source(tmp_path / "x.jsonl", b"\n".join(fuzz))
    found = read(tmp_path, given, format=form, max_bad_fraction=1.0, method="dpo" if form == "preference" else "sft")
    kept = {record["line"] for record in found.records}
    refused = {entry["line"] for entry in found.quarantine}
    blank = {number for number, line in enumerate(fuzz, 1) if not line or line.isspace()}
    assert len(kept) + len(refused) + len(blank) == len(fuzz)
    assert kept | refused | blank == set(range(1, len(fuzz) + 1))
    assert set(found.facts["reasons"]) <= set(REASONS)
    assert len(kept) > 0.015 * len(fuzz)
    for record in found.records:
        assert texts_in(record) == texts_of(json.loads(fuzz[record["line"] - 1]), form)
    for entry in found.quarantine[::97]:
        assert entry["raw"] == fuzz[entry["line"] - 1].decode("utf-8", "replace").rstrip("\r\n")[:2000]


def test_a_long_line_is_a_record_with_its_exact_text(tmp_path):
    text = "".join(chr(0x20 + number % 0x3000) for number in range(2 << 20))
    line = json.dumps({"prompt": "a", "completion": text}, ensure_ascii=False).encode()
    assert len(line) > 5_000_000
    (record,) = read(tmp_path, source(tmp_path / "x.jsonl", line)).records
    assert record["messages"][1]["content"] == text


def test_the_same_lines_in_three_processes_are_the_same_bytes(tmp_path, fuzz, monkeypatch):
    monkeypatch.setattr("snaketune.data.records.record_reader.BYTES_PER_PROCESS", 1 << 20)
    given, made = source(tmp_path / "x.jsonl", b"\n".join(fuzz)), []
    for threads in (1, 3):
        read(tmp_path, given, format="messages", max_bad_fraction=1.0, threads=threads)
        made.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    assert made[0] == made[1]


def test_memory_does_not_grow_with_the_file(tmp_path, fuzz):
    peaks = []
    for times in (1, 4):
        given = source(tmp_path / f"{times}.jsonl", b"\n".join(fuzz[:5_000] * times))
        tracemalloc.start()
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        read_quietly(given, out)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 20)
    assert max(peaks) < 16 << 20
    assert lines_of(tmp_path / "out" / "quarantine.jsonl")


def read_quietly(given, out):
    """Read without holding what was written."""
    with open(out / "records.jsonl", "wb") as records, open(out / "quarantine.jsonl", "wb") as quarantine:
        read_records([given], ReadingPolicy("messages", max_bad_fraction=1.0), records, quarantine, out / "kept")
