import gzip
import json
import random
import tracemalloc

import pytest
from data_files import ALPACA, CHAT, GOOD, PAIR, TEXT, chat, read, read_bytes, source
from hypothesis import given, settings
from hypothesis import strategies as st

from snaketune.core.errors import ConfigError, DataError
from snaketune.storage.copy_targets import NamedSource

# name: (format, the line, reason, a part of the detail)
PAIRS, CHATS, ALPACAS, TEXTS, SHARES, CHOICES = GOOD
BAD_LINES = {
    "not json": (PAIRS, b'{"prompt": oops}', "not_json", "character 12"),
    "text after the object": (PAIRS, PAIR + b" xx", "not_json", "character 33"),
    "two objects": (PAIRS, PAIR + PAIR, "not_json", "character 32"),
    "raw NUL": (PAIRS, b'{"prompt":"a\x00z","completion":"b"}', "not_json", "control"),
    "NUL padding": (PAIRS, b"\x00" * 64, "not_json", "character 1"),
    "BOM inside the file": (PAIRS, b"\xef\xbb\xbf" + PAIR, "not_json", "BOM"),
    "number too large": (PAIRS, b'{"prompt":"a","completion":"b","n":1e999}', "not_json", "infinity"),
    "invalid UTF-8": (PAIRS, b'{"prompt":"a\xff","completion":"b"}', "invalid_utf8", "0xff at position 13"),
    "high surrogate": (PAIRS, b'{"prompt":"\\ud800","completion":"b"}', "lone_surrogate", "surrogate"),
    "low surrogate": (PAIRS, b'{"prompt":"\\udc00","completion":"b"}', "lone_surrogate", "surrogate"),
    "NaN": (PAIRS, b'{"prompt":"a","completion":"b","s":NaN}', "nan_literal", "character 36"),
    "-Infinity": (PAIRS, b'{"prompt":"a","completion":"b","s":-Infinity}', "nan_literal", "Infinity"),
    "deep": (PAIRS, b'{"prompt":' + b"[" * 2000 + b"]" * 2000 + b"}", "too_deep", "depth"),
    "very deep": (PAIRS, b"[" * 200_000 + b"]" * 200_000, "too_deep", "depth"),
    "list": (PAIRS, b"[1,2]", "not_an_object", "a list"),
    "null": (PAIRS, b"null", "not_an_object", "null"),
    "number": (PAIRS, b"17", "not_an_object", "a number"),
    "missing completion": (PAIRS, b'{"prompt":"a","answer":"b"}', "missing_field", "found: prompt, answer"),
    "no key at all": (PAIRS, b"{}", "missing_field", "found: nothing"),
    "null completion": (PAIRS, b'{"prompt":"a","completion":null}', "null_content", "'completion' is null"),
    "number with an exponent": (PAIRS, b'{"prompt":"a","completion":1e30}', "wrong_type", "'completion' is a number"),
    "object as completion": (PAIRS, b'{"prompt":"a","completion":{"x":1}}', "wrong_type", "'completion' is an object"),
    "object as prompt": (PAIRS, b'{"prompt":{"x":1},"completion":"b"}', "wrong_type", "'prompt' is an object"),
    "empty prompt": (PAIRS, b'{"prompt":"","completion":"b"}', "empty_prompt", "'prompt'"),
    "blank completion": (PAIRS, b'{"prompt":"a","completion":" \\n\\u00a0"}', "empty_completion", "no text"),
    "prompt twice": (PAIRS, b'{"prompt":"a","prompt":"z","completion":"b"}', "duplicate_key", "'prompt'"),
    "missing output": (ALPACAS, b'{"instruction":"a"}', "missing_field", "'output'"),
    "blank instruction": (ALPACAS, b'{"instruction":" ","input":"","output":"b"}', "empty_prompt", "'instruction'"),
    "empty output": (ALPACAS, b'{"instruction":"a","output":""}', "empty_completion", "'output'"),
    "input is a list": (ALPACAS, b'{"instruction":"a","input":[1],"output":"b"}', "wrong_type", "'input' is a list"),
    "empty text": (TEXTS, b'{"text":"\\t"}', "empty_text", "'text'"),
    "no messages": (CHATS, b'{"id":1}', "missing_field", "'messages'; found: id"),
    "null messages": (CHATS, b'{"messages":null}', "null_content", "'messages'"),
    "messages is text": (CHATS, b'{"messages":"a"}', "wrong_type", "a list of messages"),
    "no message": (CHATS, b'{"messages":[]}', "no_assistant", "no assistant"),
    "message is text": (CHATS, b'{"messages":["a"]}', "wrong_type", "messages[0] is text"),
    "no role": (CHATS, b'{"messages":[{"content":"a"}]}', "missing_field", "messages[0]: there is no 'role'"),
    "role is a number": (CHATS, b'{"messages":[{"role":1,"content":"a"}]}', "wrong_type", "'role' is a number"),
    "unknown role": (CHATS, chat(("moon", "a"), ("assistant", "b")), "bad_role", "'moon'"),
    "no content": (CHATS, b'{"messages":[{"role":"user"}]}', "missing_field", "'content'; found: role"),
    "null content": (CHATS, chat(("user", "a"), ("assistant", None)), "null_content", "messages[1]: 'content' is null"),
    "part without text": (CHATS, chat(("user", [{"type": "text"}]), ("assistant", "b")), "content_not_text", "[0]"),
    "blank user": (CHATS, chat(("user", "\n"), ("assistant", "b")), "empty_prompt", "messages[0] (user)"),
    "empty assistant": (CHATS, chat(("user", "a"), ("assistant", "")), "empty_completion", "messages[1]"),
    "empty answer midway": (
        CHATS,
        chat(("user", "a"), ("assistant", " "), ("user", "c"), ("assistant", "d")),
        "empty_completion",
        "messages[1]",
    ),
    "no answer": (CHATS, chat(("user", "a")), "no_assistant", "no assistant"),
    "system only": (CHATS, chat(("system", "a")), "no_assistant", "no assistant"),
    "open end": (CHATS, chat(("user", "a"), ("assistant", "b"), ("user", "c")), "last_turn_not_assistant", "'user'"),
    "assistant first": (CHATS, chat(("assistant", "a")), "assistant_first", "before the user"),
    "assistant after system": (CHATS, chat(("system", "s"), ("assistant", "a")), "assistant_first", "before the user"),
    "two system messages": (
        CHATS,
        chat(("system", "s"), ("system", "s"), ("user", "a"), ("assistant", "b")),
        "duplicate_system",
        "2 system",
    ),
    "late system": (CHATS, chat(("user", "a"), ("system", "s"), ("assistant", "b")), "system_not_first", "first"),
    "content twice": (
        CHATS,
        b'{"messages":[{"role":"user","content":"a","content":"z"},{"role":"assistant","content":"b"}]}',
        "duplicate_key",
        "'content'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_set_aside_with_its_reason_and_place_and_the_others_stay(tmp_path, name):
    form, bad, reason, detail = BAD_LINES[name]
    good = GOOD[form]
    content = good + b"\n\n" + bad + b"\r\n" + good + b"\n"
    found = read_bytes(tmp_path, content, format=form)
    (entry,) = found.quarantine
    assert (entry["reason"], entry["line"], entry["offset"]) == (reason, 3, len(good) + 2)
    assert detail in entry["detail"]
    assert entry["raw"] == bad.decode("utf-8", "replace")[:2000]
    assert [record["line"] for record in found.records] == [1, 4]
    assert found.facts["reasons"] == {reason: 1}


ODD_LINES = {
    "line separator": ("prompt_completion", '{"prompt":"a\u2028b\x85c","completion":"b"}'.encode()),
    "escaped NUL": ("prompt_completion", b'{"prompt":"a\\u0000z","completion":"b"}'),
    "surrogate": ("prompt_completion", b'{"prompt":"\\ud83d\\ude00","completion":"b"}'),
    "space at the ends": ("prompt_completion", b'{"prompt":"  a \\n","completion":"\\tb\\r\\n"}'),
    "not normalised": ("prompt_completion", '{"prompt":"e\u0301 \ufb01","completion":"\u00e9"}'.encode()),
    "dates": ("prompt_completion", b'{"prompt":"2024-01-01","completion":"2024-01-01T00:00:00"}'),
    "more columns": ("prompt_completion", b'{"id":7,"prompt":"a","completion":"b","tags":["x"],"score":1.5}'),
    "large integer": ("prompt_completion", b'{"prompt":"a","completion":"b","n":123456789012345678901234567890}'),
    "key as text": ("prompt_completion", b'{"prompt":"say \\"prompt\\" and \\"prompt\\"","completion":"b"}'),
    "key quoted by accident": ("prompt_completion", b'{"prompt":"\\"prompt","completion":"prompt"}'),
    "5 MB": ("prompt_completion", b'{"prompt":"' + b"a" * 5_000_000 + b'","completion":"b"}'),
    "exactly 16 MiB": ("text", b'{"text":"' + b"a" * ((16 << 20) - 11) + b'"}'),
}


@pytest.mark.parametrize("name", ODD_LINES)
def test_odd_but_valid_text_is_kept_exactly(tmp_path, name):
    form, line = ODD_LINES[name]
    (record,) = read_bytes(tmp_path, line + b"\n", format=form).records
    raw = json.loads(line)
    texts = [record["text"]] if form == "text" else [message["content"] for message in record["messages"]]
    assert texts == [raw[key] for key in ("prompt", "completion", "text") if key in raw]


def test_system_messages_may_be_empty_and_other_keys_of_a_message_are_left_out(tmp_path):
    line = (
        b'{"messages":[{"role":"system","content":""},{"content":"a","role":"user","id":"x"},'
        b'{"role":"assistant","content":"b","tool_calls":[]}]}'
    )
    (record,) = read_bytes(tmp_path, line).records
    expected = [("system", ""), ("user", "a"), ("assistant", "b")]
    assert record["messages"] == [{"role": role, "content": content} for role, content in expected]


def test_byte_order_mark_windows_line_ends_and_a_missing_last_newline(tmp_path):
    found = read_bytes(tmp_path, b"\xef\xbb\xbf" + PAIR + b"\r\n\r\n" + PAIR + b"\r\nx\r\n" + PAIR)
    assert [record["line"] for record in found.records] == [1, 3, 5]
    (bad,) = found.quarantine
    assert (bad["line"], bad["offset"], bad["raw"]) == (4, 3 + 2 * (len(PAIR) + 2) + 2, "x")
    assert found.facts["sources"][0]["lines"] == 4


def test_a_half_written_last_line_is_set_aside_and_named_so(tmp_path):
    found = read_bytes(tmp_path, PAIR + b"\n" + PAIR[:20])
    assert len(found.records) == 1
    assert found.quarantine[0]["reason"] == "not_json"
    assert "ends in the middle of the line" in found.quarantine[0]["detail"]


def test_a_line_over_16_mib_is_set_aside_without_being_held(tmp_path):
    with open(tmp_path / "x.jsonl", "wb") as file:
        file.write(PAIR + b'\n{"prompt":"')
        file.writelines(b"a" * (1 << 20) for _ in range(128))
        file.write(b'","completion":"b"}\n' + PAIR + b"\n")
    given = source(tmp_path / "x.jsonl")
    tracemalloc.start()
    found = read(tmp_path, given, max_bad_fraction=1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 << 20
    assert [record["line"] for record in found.records] == [1, 3]
    assert (found.quarantine[0]["line"], found.quarantine[0]["reason"]) == (2, "line_too_long")
    assert len(found.quarantine[0]["raw"]) == 2000


def test_a_long_line_of_spaces_is_not_taken_for_a_blank_one(tmp_path):
    found = read_bytes(tmp_path, PAIR + b"\n" + b" " * (17 << 20) + PAIR + b"\n")
    assert [entry["reason"] for entry in found.quarantine] == ["line_too_long"]


texts = st.text(min_size=1).filter(lambda text: not text.isspace())
records = st.builds(
    lambda prompt, completion, ascii: json.dumps({"prompt": prompt, "completion": completion}, ensure_ascii=ascii),
    texts, texts, st.booleans(),
).map(str.encode)  # fmt: skip
garbage = st.binary(max_size=40).map(lambda line: line.replace(b"\n", b""))
mutilated = st.builds(lambda line, cut: line[: cut % len(line)], records, st.integers(0))
blanks = st.sampled_from([b"", b" ", b"\t \r", b"\x0b\x0c"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(records, garbage, mutilated, blanks)), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_every_line_is_a_record_quarantined_or_blank_and_text_is_unchanged(tmp_path_factory, lines, end, last):
    lines = [PAIR, *lines]
    content = end.join(lines) + (end if last else b"")
    found = read_bytes(tmp_path_factory.mktemp("any"), content, format="prompt_completion")
    physical = content.split(b"\n")
    kept = {record["line"]: record["messages"] for record in found.records}
    refused = {entry["line"]: entry for entry in found.quarantine}
    blank = {number for number, line in enumerate(physical, 1) if not line.strip()}
    assert kept.keys() | refused.keys() | blank == set(range(1, len(physical) + 1))
    assert len(kept) + len(refused) + len(blank) == len(physical)
    for number, messages in kept.items():
        raw = json.loads(physical[number - 1])
        assert [message["content"] for message in messages] == [raw["prompt"], raw["completion"]]
    for number, entry in refused.items():
        line = physical[number - 1]
        assert content[entry["offset"] :].startswith(line)
        assert entry["raw"] == line.decode("utf-8", "replace").rstrip("\r")


@pytest.mark.parametrize("form", GOOD)
def test_auto_finds_the_format_and_says_so(tmp_path, form):
    found = read_bytes(tmp_path, b"not json\n" + GOOD[form] + b"\n")
    assert found.facts["sources"][0]["format"] == form
    assert len(found.records) == 1


def test_a_text_that_holds_the_whole_record_is_named_and_another_one_is_refused(tmp_path):
    line = b'{"text":"### Question: a ### Answer: b","prompt":"a","completion":"b"}\n'
    found = read_bytes(tmp_path, line).facts["sources"][0]
    assert found["format"] == "prompt_completion"
    assert [(item["name"], item["reason"]) for item in found["unused"]] == [("text", "repeats")]
    with pytest.raises(DataError, match=r"text that would not be used: text \(1 of .*data\.ignore: \[text\]"):
        read_bytes(tmp_path, b'{"text":"x","prompt":"a","completion":"b"}\n')


def test_auto_decides_per_file_and_by_majority(tmp_path):
    one = source(tmp_path / "a.jsonl", TEXT + b"\n" + CHAT + b"\n" + CHAT + b"\n")
    two = source(tmp_path / "b.jsonl", ALPACA + b"\n")
    found = read(tmp_path, one, two, max_bad_fraction=0.5)
    assert [entry["format"] for entry in found.facts["sources"]] == ["messages", "instruction"]
    assert [(record["source"], record["line"]) for record in found.records] == [(0, 2), (0, 3), (1, 1)]
    assert found.facts["reasons"] == {"missing_field": 1}


def test_a_file_of_unknown_shape_is_an_error_with_its_keys_and_the_fix(tmp_path):
    with pytest.raises(
        DataError,
        match=r"x\.jsonl has no known format, its records have ask, say.*prompt: ask, completion: say\} or.*prompt: "
        "say",
    ):
        read_bytes(tmp_path, b'{"ask":"a","say":"b"}\n')


def test_a_file_without_json_or_a_table_is_named_so(tmp_path):
    with pytest.raises(DataError, match="is plain text, not records"):
        read_bytes(tmp_path, b"No table at all\nand no records, either\n")


@pytest.mark.parametrize("form", ["auto", "prompt_completion"])
def test_columns_are_renamed(tmp_path, form):
    columns = {"prompt": "question", "completion": "answer"}
    line = b'{"id":1,"question":"a","answer":"b"}\n'
    found = read_bytes(tmp_path, line, format=form, columns=columns)
    assert [message["content"] for message in found.records[0]["messages"]] == ["a", "b"]
    assert found.facts["sources"][0]["ignored"] == ["id"]


@pytest.mark.parametrize("form", ["auto", "prompt_completion"])
def test_a_mapped_column_that_no_record_has_is_an_error_listing_what_there_is(tmp_path, form):
    columns = {"prompt": "question", "completion": "response"}
    with pytest.raises(
        DataError, match=r"no record of .* has 'response'.* completion; found: .*question, answer|answer, question"
    ):
        read_bytes(tmp_path, b'{"question":"a","answer":"b"}\n', format=form, columns=columns)


def test_a_mapped_column_may_be_rare_and_may_be_in_one_file_only(tmp_path):
    rare = b'{"instruction":"a","output":"b"}\n' * 100 + b'{"instruction":"a","ctx":"c","output":"b"}\n'
    one, two = source(tmp_path / "a.jsonl", rare), source(tmp_path / "b.jsonl", CHAT)
    found = read(tmp_path, one, two, columns={"input": "ctx"})
    assert found.records[100]["messages"][0]["content"] == "a\n\nc"


def test_an_unknown_canonical_column_is_an_error_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"'promt' is not a column of data\.format auto: did you mean prompt"):
        read_bytes(tmp_path, PAIR, columns={"promt": "question"})
    with pytest.raises(ConfigError, match=r"'text' is not a column of data\.format messages"):
        read_bytes(tmp_path, CHAT, format="messages", columns={"text": "body"})


@pytest.mark.parametrize(
    ("given", "content"), [("c", "a\n\nc"), (" c\n", "a\n\n c\n"), ("", "a"), (" \n", "a"), (None, "a")]
)
def test_an_input_follows_the_instruction_after_a_blank_line(tmp_path, given, content):
    line = json.dumps({"instruction": "a", "input": given, "output": "b"}).encode()
    assert read_bytes(tmp_path, line).records[0]["messages"][0]["content"] == content


def test_a_system_prompt_comes_first_where_there_is_no_system_message(tmp_path):
    lines = chat(("user", "a"), ("assistant", "b")) + b"\n" + chat(("system", "own"), ("user", "a"), ("assistant", "b"))
    first, second = read_bytes(tmp_path, lines, system_prompt="Be brief.").records
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [message["content"] for message in second["messages"]] == ["own", "a", "b"]


def test_a_system_prompt_for_plain_text_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.system_prompt"):
        read_bytes(tmp_path, TEXT, system_prompt="Be brief.")


def test_too_many_bad_lines_stop_the_run_and_the_quarantine_survives(tmp_path):
    content = PAIR + b"\n" + b"oops\n" * 2 + b'{"prompt":"a"}\n'
    with pytest.raises(DataError) as caught:
        read_bytes(tmp_path, content, format="prompt_completion", max_bad_fraction=0.5)
    for part in (
        "3 of 4 lines",
        "2 not_json, 1 missing_field",
        "75 %",
        "50 %",
        "x.jsonl line 2: not_json",
        "kept.jsonl",
    ):
        assert part in str(caught.value)
    assert [json.loads(line)["line"] for line in (tmp_path / "kept.jsonl").open()] == [2, 3, 4]
    assert not list((tmp_path / "out").iterdir())


def test_the_limit_itself_is_allowed_and_success_removes_the_kept_quarantine(tmp_path):
    (tmp_path / "kept.jsonl").write_text("of an earlier failure")
    assert len(read_bytes(tmp_path, PAIR + b"\noops\n", max_bad_fraction=0.5).records) == 1
    assert not (tmp_path / "kept.jsonl").exists()


def test_no_record_left_is_an_error_whatever_the_limit(tmp_path):
    with pytest.raises(DataError, match="2 of 2 lines cannot be used"):
        read_bytes(tmp_path, b"oops\n{}\n", format="text", max_bad_fraction=1.0)


def test_a_file_of_blank_lines_is_an_error(tmp_path):
    for form in ("auto", "text"):
        with pytest.raises(DataError, match=r"x\.jsonl has no record"):
            read_bytes(tmp_path, b"\xef\xbb\xbf\n \r\n", format=form)


def test_a_source_that_changed_since_it_was_staged_is_an_error(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(PAIR)
    with pytest.raises(DataError, match=r"x\.jsonl changed while the workflow ran"):
        read(tmp_path, (NamedSource("x.jsonl", len(PAIR), "0" * 32), tmp_path / "x.jsonl"))
    assert not list((tmp_path / "out").iterdir())


def test_facts_add_up_and_do_not_depend_on_where_the_files_lie(tmp_path):
    content = PAIR + b"\noops\n\n" + PAIR + b"\n"
    results = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        given = source(tmp_path / place / "x.jsonl", content, name="data/x.jsonl")
        results.append(read(tmp_path / place, given, max_bad_fraction=1.0))
    assert results[0] == results[1]
    assert results[0].facts == {
        "sources": [
            {
                "path": "data/x.jsonl",
                "format": "prompt_completion",
                "evidence": "prompt/completion",
                "lines": 3,
                "records": 2,
                "quarantined": 1,
                "set_aside": 0,
                "ignored": [],
                "unused": [],
            }
        ],
        "records": 2,
        "quarantined": 1,
        "reasons": {"not_json": 1},
    }


def outputs(folder):
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


def test_any_number_of_processes_writes_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("snaketune.data.records.record_reader.BYTES_PER_PROCESS", 1 << 16)
    rng = random.Random(0)
    plain = b"\xef\xbb\xbf" + b"\n".join(
        rng.choice([PAIR, b"", b"oops", b'{"k%d":1}' % (n % 7), b'{"prompt":"%d","completion":"' % n + b"x" * rng.randrange(4000) + b'"}'])  # noqa: E501
        for n in range(1500)
    )  # fmt: skip
    given = [
        source(tmp_path / "a.jsonl", plain, "a.jsonl"),
        source(tmp_path / "b.jsonl.gz", gzip.compress(plain.replace(b"oops", b"[]")), "b.jsonl.gz"),
        source(tmp_path / "c.jsonl", TEXT + b"\n" + b"\n" * 70_000 + TEXT, "c.jsonl"),
    ]
    found = {}
    for threads in (1, 2, 8):
        facts = read(tmp_path, *given, threads=threads, max_bad_fraction=1.0).facts
        found[threads] = (facts, outputs(tmp_path))
    assert found[1] == found[2] == found[8]
    assert found[1][0]["records"] > 1000
    assert found[1][0]["sources"][0]["ignored"] == [f"k{n}" for n in range(7)]


def test_an_error_of_one_process_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("snaketune.data.records.record_reader.BYTES_PER_PROCESS", 1000)
    good = source(tmp_path / "a.jsonl", (PAIR + b"\n") * 1000)
    cut = source(tmp_path / "b.jsonl.gz", gzip.compress((PAIR + b"\n") * 1000)[:-9])
    with pytest.raises(DataError, match=r"b\.jsonl\.gz: the compressed data are damaged"):
        read(tmp_path, good, cut, threads=2)
    assert not list((tmp_path / "out").iterdir())


def test_the_progress_is_that_of_the_files_on_disk(tmp_path, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, **options):
            self.total, self.done = total, 0
            bars.append(self)

        def update(self, size):
            self.done += size

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    monkeypatch.setattr("tqdm.tqdm", Bar)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    content = (PAIR + b"\n") * 30_000
    given = [source(tmp_path / "a.jsonl", content), source(tmp_path / "b.jsonl.gz", gzip.compress(content))]
    read(tmp_path, *given)
    assert [bar.done for bar in bars] == [bar.total for bar in bars] == [sum(one.bytes for one, _ in given)]


def test_many_columns_are_counted_in_bounded_memory_and_rare_ones_are_still_found(tmp_path):
    lines = [b'{"prompt":"a","completion":"b","c%06d":1}' % number for number in range(30_000)]
    content = b"\n".join([*lines, b'{"prompt":"a","answer":"b"}'])
    found = read_bytes(tmp_path, content, columns={"output": "answer"})
    assert len(found.facts["sources"][0]["ignored"]) == 50
