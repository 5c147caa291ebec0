"""What becomes of columns, roles, marks, verdicts and numbers of other programs; see also tests/golden/shapes."""

import json

import pytest
from data_files import read, read_bytes, source

from snaketune.common.errors import ConfigError, DataError
from snaketune.data.records import key_bytes, read_turns

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def lines(*records):
    return "\n".join(map(json.dumps, records)).encode()


def test_roles_of_the_configuration_are_known(tmp_path):
    turns = [{"role": "guest", "content": "a"}, {"role": "clerk", "content": "b"}]
    with pytest.raises(DataError, match=r"data\.roles: \{guest: user, clerk: assistant\}"):
        read_bytes(tmp_path, lines({"messages": turns}))
    found = read_bytes(tmp_path, lines({"messages": turns}), roles={"guest": "user", "clerk": "assistant"})
    assert found.records[0]["messages"] == [USER, ANSWER]


@pytest.mark.parametrize("text", ["b</s>", "b</s>\n", "b<|im_end|></s> "])
def test_marks_are_taken_from_the_end_alone(tmp_path, text):
    made = read_bytes(
        tmp_path, lines({"prompt": "a [/] in it", "completion": text}), strip=["</s>", "<|im_end|>"]
    ).records[0]["messages"]
    assert [turn["content"] for turn in made] == ["a [/] in it", "b"]


def test_a_text_that_is_nothing_but_a_mark_is_refused(tmp_path):
    found = read_bytes(
        tmp_path, lines({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "</s>"}), strip=["</s>"]
    )
    assert found.facts["reasons"] == {"empty_completion": 1}


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ('{"name":"f","arguments":{"price":1.10}}', "inexact_number"),
        ('{"name":"f","arguments":{"price":1e5}}', "inexact_number"),
        ('{"name":"f","arguments":{"price":1,"price":2}}', "duplicate_key"),
    ],
)
def test_no_number_and_no_key_of_a_call_changes_in_silence(tmp_path, call, reason):
    turns = '{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":[{"function":%s}]}'
    line = '{"messages":[' + turns + "]}"
    good = line % '{"name":"f","arguments":{"price":1.5}}'
    found = read_bytes(tmp_path, f"{good}\n{line % call}".encode())
    assert found.facts["reasons"] == {reason: 1}
    assert found.records[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"price": 1.5}


def test_a_judged_record_that_comes_late_is_set_aside_and_counted(tmp_path):
    records = [{"prompt": f"a{n}", "completion": "b", "is_correct": n != 80} for n in range(100)]
    found = read(tmp_path, source(tmp_path / "x.jsonl", lines(*records)))
    assert (found.facts["records"], found.facts["reasons"]) == (99, {"judged_wrong": 1})
    assert found.facts["sources"][0]["set_aside"] == 1


def test_a_column_that_comes_late_with_most_of_the_text_is_refused(tmp_path):
    records = [{"prompt": "a", "completion": "b", **({"draft": "some text"} if n > 70 else {})} for n in range(400)]
    with pytest.raises(DataError, match=r"'draft' has text in most records.*data\.ignore: \[draft\]"):
        read_bytes(tmp_path, lines(*records))
    found = read_bytes(tmp_path, lines(*records), ignore=["draft"]).facts["sources"][0]
    assert [(item["name"], item["records"], item["reason"]) for item in found["unused"]] == [
        ("draft", 329, "data.ignore")
    ]


def test_what_is_ignored_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.ignore: no record of 1 source has 'drafts'"):
        read_bytes(tmp_path, lines({"prompt": "a", "completion": "b"}), ignore=["drafts"])


def test_records_that_differ_in_their_reasoning_alone_are_different(tmp_path):
    records = [{"messages": [USER, {**ANSWER, "reasoning_content": text}]} for text in ("x", "y", "x")]
    read_bytes(tmp_path, lines(*records))
    one, two, three = map(key_bytes, read_turns(tmp_path / "out" / "records.jsonl"))
    assert one == three != two


def test_columns_of_a_source_are_its_own(tmp_path):
    found = read_bytes(tmp_path, lines({"q1": "a", "a1": "b"}), columns={"prompt": "q1", "completion": "a1"})
    assert found.records[0]["messages"] == [USER, ANSWER]
