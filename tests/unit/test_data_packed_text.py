"""Conversations that a column holds as text."""

import json

import pytest

from snaketune.data.conversations.packed_text import packed_columns, unpacked_columns
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.records.reading_policy import ReadingPolicy

TURNS = [{"role": "user", "content": "It's one?"}, {"role": "assistant", "content": 'Yes, "one".'}]


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_a_list_of_turns_is_read_from_its_text(write):
    record = {"id": 3, "messages": write(TURNS)}
    assert packed_columns([record], ReadingPolicy()) == ("messages",)
    assert unpacked_columns(record, ("messages",)) == {"id": 3, "messages": TURNS}


@pytest.mark.parametrize("text", ["[1, 2]", "a text", "[__import__('os').getcwd()]", "[" * 9999, "", "[{'role'"])
def test_other_texts_stay(text):
    assert packed_columns([{"prompt": text}], ReadingPolicy()) == ()
    with pytest.raises(RefusedLine, match="not a list of messages"):
        unpacked_columns({"prompt": text}, ("prompt",))


def test_numbers_from_and_to_are_no_turns():
    assert packed_columns([{"spans": '[{"from": 3, "to": 5}]'}], ReadingPolicy()) == ()


def test_answers_and_what_is_named_a_text_stay():
    record = {"answer": json.dumps(TURNS), "log": json.dumps(TURNS)}
    assert packed_columns([record], ReadingPolicy(columns={"text": "log"})) == ()
    assert packed_columns([record], ReadingPolicy(ignore=["log"])) == ()


def test_a_key_that_is_there_twice_is_refused():
    text = '[{"role": "user", "content": "a", "content": "b"}]'
    with pytest.raises(RefusedLine, match="occurs twice"):
        unpacked_columns({"messages": text}, ("messages",))
