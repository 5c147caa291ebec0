"""Conversations with tools and weights, ShareGPT, preferences, and the words for every reason there is."""

import ast
import json
from pathlib import Path

import pytest
from data_files import CHAT, read_bytes

from snaketune.data.records.canonical_records import key_bytes, prompt_of, read_turns
from snaketune.report.run.funnel import REASONS

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1,  "b": 2}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "required": ["a"]}}}
USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "3"}


def one(tmp_path, record, **policy):
    """Return the one record that a raw record becomes, without its place."""
    (found,) = read_bytes(tmp_path, json.dumps(record).encode(), **policy).records
    return {key: value for key, value in found.items() if key not in ("source", "line")}


def refused(tmp_path, record, **policy):
    """Return reason and detail of a raw record that follows a good one."""
    good = {"messages": [USER, ANSWER]} if "messages" in record else GOOD_OTHERS[policy["format"]]
    content = json.dumps(good) + "\n" + json.dumps(record)
    (entry,) = read_bytes(tmp_path, content.encode(), **policy).quarantine
    return entry["reason"], entry["detail"]


def share(*turns):
    return [{"from": speaker, "value": value} for speaker, value in turns]


GOOD_OTHERS = {
    "sharegpt": {"conversations": share(("human", "a"), ("gpt", "b"))},
    "preference": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "prompt_completion": {"prompt": "a", "completion": "b"},
}
GOOD_PAIR = b'{"prompt":"a","completion":"b"}\n'


def test_tool_calls_results_and_tools_are_kept_as_they_stand(tmp_path):
    record = {"tools": [TOOL], "messages": [USER, CALLING, RESULT, ANSWER], "parallel_tool_calls": False}
    assert one(tmp_path, record) == {"messages": record["messages"], "tools": [TOOL]}


def test_a_conversation_may_end_in_a_tool_call_whose_content_may_be_missing(tmp_path):
    turn = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1.5}}}]}
    made = one(tmp_path, {"messages": [USER, turn]})["messages"][1]
    assert made == {"role": "assistant", "content": None, "tool_calls": turn["tool_calls"]}


@pytest.mark.parametrize("empty", [None, [], ""])
def test_no_tools_are_no_key(tmp_path, empty):
    turns = [USER, {**ANSWER, "tool_calls": empty or None}]
    assert one(tmp_path, {"messages": turns, "tools": empty}) == {"messages": [USER, ANSWER]}


@pytest.mark.parametrize(
    ("turns", "reason", "detail"),
    [
        ([USER, {**CALLING, "tool_calls": {"id": "x"}}], "bad_tool_call", "a list of calls"),
        ([USER, {**CALLING, "tool_calls": ["x"]}], "bad_tool_call", "tool_calls[0] names no function"),
        ([USER, {**CALLING, "tool_calls": [{"id": 1}]}], "bad_tool_call", "an id that is a number"),
        ([USER, {**CALLING, "tool_calls": [{"id": "x"}]}], "bad_tool_call", "names no function"),
        ([USER, {**CALLING, "tool_calls": [{"function": {"name": "f"}}]}], "bad_tool_call", "null, not an object"),
        ([USER, {**CALLING, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "bad_tool_call", "JSON"),
        ([USER, {**CALLING, "tool_calls": [{"function": {"name": "f", "arguments": "3"}}]}], "bad_tool_call", "number"),
        ([{**USER, "tool_calls": [CALL]}, ANSWER], "bad_tool_call", "messages[0] (user)"),
        ([USER, RESULT, ANSWER], "tool_without_call", "messages[1]"),
        ([USER, CALLING, {**RESULT, "tool_call_id": "c2"}, ANSWER], "tool_without_call", "'c2'"),
        ([USER, CALLING, {**RESULT, "tool_call_id": 1}, ANSWER], "wrong_type", "'tool_call_id' is a number"),
        ([USER, CALLING, {"role": "tool", "content": None}, ANSWER], "null_content", "messages[2]"),
        ([USER, CALLING, RESULT], "last_turn_not_assistant", "'tool'"),
        ([USER, {**ANSWER, "function_call": {"name": "f"}}], "bad_tool_call", "messages[1]"),
        ([USER, {**CALLING, "function_call": {"name": "f", "arguments": "{}"}}], "bad_tool_call", "keep one of them"),
        ([USER, {**ANSWER, "weight": 2}], "bad_weight", "messages[1]"),
        ([USER, {**ANSWER, "weight": "0"}], "bad_weight", "messages[1]"),
        ([USER, {**ANSWER, "loss_weight": 0.5}], "bad_weight", "'loss_weight' is 0.5"),
        ([USER, {**ANSWER, "train": False, "weight": 1}], "bad_weight", "contradict"),
        ([USER, {**ANSWER, "thinking": "x", "reasoning": "y"}], "two_reasonings", "'reasoning' and 'thinking'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ANSWER], "other_modality", "is image"),
        ([{"role": "user", "content": [{"type": "table"}]}, ANSWER], "content_not_text", "'table'"),
        ([{"role": "user", "content": [17]}, ANSWER], "content_not_text", "a number"),
        ([{"role": "user", "content": []}, ANSWER], "empty_prompt", "messages[0]"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_turn_is_named(tmp_path, turns, reason, detail):
    found = refused(tmp_path, {"messages": turns})
    assert found[0] == reason
    assert detail in found[1]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"tools": "{"}, "bad_tools"),
        ({"tools": ["add"]}, "bad_tools"),
        ({"tools": {"name": "add"}}, "bad_tools"),
        ({"tools": [{"x": 12345678901234567890123}]}, "inexact_number"),
        ({"tools": [{"x": json.loads("[" * 300 + "]" * 300)}]}, "too_deep"),
    ],
)
def test_tools_that_could_not_be_written_as_they_were_read_are_refused(tmp_path, record, reason):
    assert refused(tmp_path, {"messages": [USER, ANSWER], **record})[0] == reason


def test_numbers_of_64_bits_in_tools_stay_exact(tmp_path):
    tools = [{"x": 2**63 + 1, "y": -(2**63), "z": 0.1}]
    assert one(tmp_path, {"messages": [USER, ANSWER], "tools": tools})["tools"] == tools


def test_weights_are_kept_where_they_are(tmp_path):
    turns = [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1.0}, USER, {**ANSWER, "weight": None}]
    made = one(tmp_path, {"messages": turns})["messages"]
    assert [turn.get("weight", "none") for turn in made] == ["none", 0, "none", 1, "none", "none"]


@pytest.mark.parametrize("key", ["weight", "tool_calls", "name"])
def test_a_rare_key_that_is_written_twice_is_refused(tmp_path, key):
    value = json.dumps({"weight": 0, "tool_calls": [CALL], "name": "n"}[key])
    line = CHAT[: -len(b"}]}")] + f',"{key}":{value},"{key}":{value}'.encode() + b"}]}"
    found = read_bytes(tmp_path, CHAT + b"\n" + line)
    assert found.facts["reasons"] == {"duplicate_key": 1}


def test_text_parts_are_joined_exactly(tmp_path):
    parts = [{"type": "text", "text": " a\n"}, "b", {"type": "text", "text": "", "cache_control": {}}]
    made = one(tmp_path, {"messages": [{"role": "user", "content": parts}, ANSWER]})
    assert made["messages"][0] == {"role": "user", "content": " a\nb"}


def test_sharegpt_turns_become_messages(tmp_path):
    turns = share(("system", "s"), ("human", "a"), ("gpt", "b"), ("user", " c "), ("assistant", "d"))
    made = one(tmp_path, {"id": "1", "conversations": turns})
    roles = ["system", "user", "assistant", "user", "assistant"]
    contents = [turn["value"] for turn in turns]
    assert made == {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]}


def test_sharegpt_calls_results_tools_system_and_weights(tmp_path):
    turns = share(("human", "a"), ("function_call", '{"name": "add", "arguments": {"a": 1}}'), ("observation", "3"))
    turns += [{"from": "gpt", "value": "b", "weight": 0}]
    made = one(tmp_path, {"conversations": turns, "system": "s", "tools": json.dumps([TOOL])})
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert made == {
        "messages": [
            {"role": "system", "content": "s"},
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "3"},
            {**ANSWER, "weight": 0},
        ],
        "tools": [TOOL],
    }


def test_a_conversation_keeps_its_own_system_message(tmp_path):
    turns = share(("system", "own"), ("human", "a"), ("gpt", "b"))
    for system in ("own", "", None):
        made = one(tmp_path, {"conversations": turns, "system": system}, system_prompt="third")
        assert made["messages"][0]["content"] == "own"


def test_sharegpt_with_role_and_content_is_read_as_well(tmp_path):
    assert one(tmp_path, {"conversations": [USER, ANSWER]}) == {"messages": [USER, ANSWER]}


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (share(("human", "a"), ("moon", "b")), "bad_role"),
        (share(("gpt", "b")), "assistant_first"),
        (share(("human", "a")), "no_assistant"),
        (share(("human", ""), ("gpt", "b")), "empty_prompt"),
        (share(("human", None), ("gpt", "b")), "null_content"),
        ([{"from": "human"}, {"from": "gpt", "value": "b"}], "missing_field"),
        ([{"from": 1, "value": "a"}], "wrong_type"),
        (share(("human", "a"), ("function_call", "add(1)")), "bad_tool_call"),
        (share(("human", "a"), ("function_call", "[]")), "bad_tool_call"),
        ("a", "wrong_type"),
    ],
)
def test_sharegpt_conversations_are_checked_alike(tmp_path, turns, reason):
    assert refused(tmp_path, {"conversations": turns}, format="sharegpt")[0] == reason


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [([USER], [ANSWER]), ("a", [ANSWER]), ([USER], "b"), (share(("human", "a")), share(("gpt", "b")))],
)
def test_prompt_and_completion_may_be_messages(tmp_path, prompt, completion):
    record = {"prompt": prompt, "completion": completion, "tools": [TOOL]}
    assert one(tmp_path, record) == {"messages": [USER, ANSWER], "tools": [TOOL]}


def test_answers_in_a_prompt_of_messages_are_not_trained(tmp_path):
    made = one(tmp_path, {"prompt": [USER, ANSWER, USER], "completion": [CALLING, RESULT, ANSWER]})
    assert made["messages"] == [USER, {**ANSWER, "weight": 0}, USER, CALLING, RESULT, ANSWER]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": [USER], "completion": []}, "empty_completion"),
        ({"prompt": [USER, ANSWER], "completion": []}, "empty_completion"),
        ({"prompt": [], "completion": [ANSWER]}, "assistant_first"),
        ({"prompt": [ANSWER], "completion": [ANSWER]}, "assistant_first"),
        ({"prompt": [USER], "completion": [USER]}, "no_assistant"),
        ({"prompt": [USER], "completion": [ANSWER, USER]}, "last_turn_not_assistant"),
        ({"prompt": {"x": 1}, "completion": [ANSWER]}, "wrong_type"),
        ({"prompt": [USER], "completion": None}, "null_content"),
        ({"prompt": [USER], "completion": " "}, "empty_completion"),
        ({"prompt": [{"role": "user"}], "completion": "b"}, "missing_field"),
    ],
)
def test_a_prompt_and_completion_that_are_no_conversation_are_refused(tmp_path, record, reason):
    assert refused(tmp_path, record, format="prompt_completion")[0] == reason


@pytest.mark.parametrize(
    "line",
    [
        b'{"prompt":"a","completion":"b","\\u0070rompt":"c"}',
        b'{"\\u0070\\u0072\\u006F\\u006d\\u0070\\u0074" : "a","completion":"b","prompt":"c"}',
        b'{"prompt":"a","completion":[{"role":"user","role":"assistant","content":"b"}]}',
        b'{"prompt":"a","completion":[{"role":"assistant","content":"b","\\u0063ontent":"c"}]}',
        b'{"prompt":"a","completion":[{"role":"assistant","content":"b","weight":0,"we\\u0069ght":1}]}',
        b'{"prompt":"a","completion":"b","tools":[],"t\\u006fols":[]}',
    ],
)
def test_a_key_that_is_written_twice_is_refused_however_it_is_spelled(tmp_path, line):
    assert read_bytes(tmp_path, GOOD_PAIR + line).facts["reasons"] == {"duplicate_key": 1}


@pytest.mark.parametrize(
    ("name", "spelled"), [("pr\u00e9gunta", b"pr\\u00e9gunta"), ("q/a", b"q\\/a"), ("\U0001f600", b"\\ud83d\\ude00")]
)
def test_a_renamed_column_that_is_written_twice_with_escapes_is_refused(tmp_path, name, spelled):
    line = b'{"%s":"a","completion":"b"}'
    lines = [line % spelled, line % name.encode(), b'{"%s":"a",' % spelled + line[1:] % name.encode()]
    found = read_bytes(tmp_path, b"\n".join(lines), columns={"prompt": name})
    assert [record["messages"][0]["content"] for record in found.records] == ["a", "a"]
    assert [(entry["line"], entry["reason"]) for entry in found.quarantine] == [(3, "duplicate_key")]


def test_keys_spelled_with_escapes_and_text_that_looks_like_keys_are_no_repetition(tmp_path):
    answer = {"role": "assistant", "content": 'caf\u00e9 {"role":"x","role": 1, "pr\u006fmpt": "y"} "prompt":'}
    escaped = b'{"pr\\u006fmpt":"\\u0070rompt","completion":[%s]}' % json.dumps(answer).encode()
    found = read_bytes(tmp_path, GOOD_PAIR + escaped)
    assert not found.quarantine
    assert found.records[1]["messages"] == [{"role": "user", "content": "prompt"}, answer]


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": {"b": [{"c": 1, "\\u0063": 2}]}}'])
def test_a_key_that_is_written_twice_in_json_text_is_refused(tmp_path, text):
    calling = {**CALLING, "tool_calls": [{"function": {"name": "f", "arguments": text}}]}
    assert refused(tmp_path, {"messages": [USER, calling]})[0] == "duplicate_key"
    assert refused(tmp_path, {"messages": [USER, ANSWER], "tools": f"[{text}]"})[0] == "duplicate_key"
    turns = [("human", "a"), ("function_call", f'{{"name": "f", "arguments": {text}}}')]
    assert refused(tmp_path, {"conversations": share(*turns)}, format="sharegpt")[0] == "duplicate_key"


def test_arguments_that_nest_too_deeply_for_a_template_are_refused(tmp_path):
    deep = {**CALLING, "tool_calls": [{"function": {"name": "f", "arguments": '{"a":' + "[" * 200 + "]" * 200 + "}"}}]}
    assert refused(tmp_path, {"messages": [USER, deep]})[0] == "too_deep"


SYSTEM = {"role": "system", "content": "s"}
OTHER = {"role": "assistant", "content": "c"}
EXPECTED = {"messages": [USER], "chosen": [ANSWER], "rejected": [OTHER]}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]},
        {"prompt": "a", "chosen": [ANSWER], "rejected": "c"},
        {"prompt": "a", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"prompt": None, "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {
            "prompt": share(("human", "a")),
            "chosen": {"from": "gpt", "value": "b"},
            "rejected": {"from": "gpt", "value": "c"},
        },
    ],
)
def test_preferences_have_a_prompt_and_two_answers(tmp_path, record):
    assert one(tmp_path, record, method="dpo") == EXPECTED
    assert one(tmp_path, record) == {"messages": [USER, ANSWER]}


def test_the_prompt_of_whole_conversations_is_all_that_they_share(tmp_path):
    start = [SYSTEM, USER, ANSWER, {"role": "user", "content": "more"}]
    record = {"prompt": "more", "chosen": [*start, ANSWER], "rejected": [*start, OTHER, USER, OTHER], "score": 1}
    made = one(tmp_path, record, method="dpo")
    assert made == {"messages": start, "chosen": [ANSWER], "rejected": [OTHER, USER, OTHER]}


def test_a_system_prompt_comes_before_the_prompt_of_a_preference(tmp_path):
    record = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert one(tmp_path, record, system_prompt="s", method="dpo")["messages"] == [SYSTEM, USER]
    assert one(tmp_path, record, system_prompt="s")["messages"] == [SYSTEM, USER, ANSWER]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "no_preference"),
        ({"chosen": "b", "rejected": "c"}, "missing_field"),
        ({"prompt": "", "chosen": "b", "rejected": "c"}, "empty_prompt"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "empty_completion"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "null_content"),
        ({"prompt": "a", "chosen": "b", "rejected": []}, "no_assistant"),
        ({"prompt": "a", "chosen": "b", "rejected": {"x": 1}}, "wrong_type"),
        ({"prompt": [ANSWER], "chosen": "b", "rejected": "c"}, "assistant_first"),
        ({"prompt": "z", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, "prompts_differ"),
        ({"chosen": [USER, ANSWER], "rejected": [SYSTEM, OTHER]}, "prompts_differ"),
        ({"chosen": [USER, ANSWER, USER, OTHER], "rejected": [USER, ANSWER, SYSTEM, OTHER]}, "prompts_differ"),
        ({"chosen": [USER, ANSWER, USER], "rejected": [USER, OTHER, USER]}, "last_turn_not_assistant"),
    ],
)
def test_what_is_no_preference_is_refused(tmp_path, record, reason):
    assert refused(tmp_path, record, format="preference")[0] == reason


def test_messages_that_the_chosen_answer_repeats_are_no_other_reading(tmp_path):
    record = {"prompt": "a", "messages": [USER, ANSWER], "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}
    found = read_bytes(tmp_path, json.dumps(record).encode())
    assert found.facts["sources"][0]["format"] == "preference"
    assert found.records[0]["messages"] == [USER, ANSWER]


def test_every_reason_has_words_in_the_report():
    library = Path(__file__).parents[2] / "scripts" / "snaketune" / "data"
    calls = [
        node
        for path in library.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RefusedLine" and node.args
    ]
    codes = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    assert len(codes) > 20
    assert codes - REASONS.keys() == set()


def stage_of(tmp_path, *records, **policy):
    """Return the turns that the later stages see of raw records."""
    read_bytes(tmp_path, "\n".join(map(json.dumps, records)).encode(), **policy)
    return list(read_turns(tmp_path / "out" / "records.jsonl"))


def test_pairs_that_differ_in_the_rejected_answer_are_different_and_share_their_prompt(tmp_path):
    raw = [{"prompt": "a", "chosen": "b", "rejected": rejected} for rejected in ("c", "d", " c ")]
    one, two, three = stage_of(tmp_path, *raw, method="dpo")
    assert key_bytes(one) == key_bytes(three) != key_bytes(two)
    assert prompt_of(one) == prompt_of(two) == [("user", "a")]
    one, two, _ = stage_of(tmp_path, *raw)
    assert key_bytes(one) == key_bytes(two) == key_bytes([("user", "a"), ("assistant", "b")])


def test_records_that_call_tools_differently_are_different(tmp_path):
    other = {**CALLING, "tool_calls": [{**CALL, "id": "c9"}]}
    third = {**CALLING, "tool_calls": [{**CALL, "function": {"name": "add", "arguments": "{}"}}]}
    one, two, three = stage_of(tmp_path, *({"messages": [USER, turn, ANSWER]} for turn in (CALLING, other, third)))
    assert key_bytes(one) == key_bytes(two) != key_bytes(three)
