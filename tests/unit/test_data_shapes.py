"""What becomes of columns, roles, marks, verdicts and numbers of other programs; see also tests/golden/shapes."""

import json
import re
import subprocess

import pytest
from data_files import read, read_bytes, source

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.records.canonical_records import key_bytes, read_turns

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


def test_the_command_that_takes_marks_out_of_a_text_takes_all_of_them_and_nothing_else(tmp_path):
    texts = ["INST [INST] a [/INST] b </s> c", "It is [INST] so </s> and <|im_start|>user\\ so"]
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(*({"prompt": "a", "completion": text} for text in texts)))
    with pytest.raises(DataError, match="written for another chat template") as raised:
        read(tmp_path, source(path))
    [command] = re.findall(r"`(sed .*?)`", str(raised.value))
    subprocess.run(command.replace("FILE", "x.jsonl"), shell=True, cwd=tmp_path, check=True)
    made = read(tmp_path, source(tmp_path / "lines.jsonl")).records
    assert [record["messages"][1]["content"] for record in made] == [
        "INST  a  b  c",
        "It is  so  and user\\ so",
    ]


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


def test_a_refusal_and_the_account_say_the_same_share(tmp_path):
    records = [{"question": "ab", "answer": "cdéf", "notes": "x y z" * n, "id": str(n)} for n in range(1, 9)]
    with pytest.raises(DataError) as caught:
        read_bytes(tmp_path, lines(*records))
    facts = read_bytes(tmp_path, lines(*records), ignore=["notes"]).facts["sources"][0]
    assert [(item["name"], item["share"]) for item in facts["unused"]] == [("id", 0.0339), ("notes", 0.7627)]
    assert "notes (8 of the first 8 records, 76% of the text)" in str(caught.value)


def test_what_is_beside_named_places_is_counted_once_for_each_record(tmp_path):
    turns = [{"ask": "a", "say": "b"}, {"ask": "c", "say": "d"}, {"ask": "e", "say": "f", "sa": "g"}]
    columns = {"prompt": "turns[0].ask", "completion": "turns[0].say"}
    facts = read_bytes(tmp_path, lines(*[{"turns": turns}] * 3), columns=columns).facts["sources"][0]
    [unused] = facts["unused"]
    assert (unused["name"], unused["records"], unused["share"]) == ("turns[…]", 3, 0.7143)


def test_a_place_is_not_used_because_a_longer_name_is(tmp_path):
    record = {"chat": {"turn": "lost text", "turn_1": "a", "turn_2": "b"}}
    columns = {"prompt": "chat.turn_1", "completion": "chat.turn_2"}
    facts = read_bytes(tmp_path, lines(record, record), columns=columns).facts["sources"][0]
    assert [item["name"] for item in facts["unused"]] == ["chat.turn"]


@pytest.mark.parametrize(
    ("number", "written"), [("1.10", "1.1"), ("1e5", "100000.0"), ("1e-7", "1e-07"), ("-0", "0"), ("1E3", "1000.0")]
)
def test_numbers_in_json_text_that_a_template_would_change_are_refused(tmp_path, number, written):
    arguments, schema = f'{{"price": {number}}}', f'[{{"name": "f", "default": {number}}}]'
    calls = [{"function": {"name": "f", "arguments": arguments}}]
    asked = {"role": "user", "content": "a"}
    good = {"messages": [asked, ANSWER]}
    by_call = [asked, {"role": "assistant", "content": None, "tool_calls": calls}]
    by_text = [asked, {"role": "function_call", "content": f'{{"name": "f", "arguments": {arguments}}}'}]
    bad = [{"messages": by_call}, {"messages": by_text}, {"messages": [asked, ANSWER], "tools": schema}]
    found = read_bytes(tmp_path, lines(*[good] * 10, *bad), max_bad_fraction=0.5)
    assert found.facts["reasons"] == {"inexact_number": 3}
    assert f"a tool's {number} would be written as {written}" in found.quarantine[0]["detail"]


def test_numbers_in_json_text_that_stay_what_they_are_go_in(tmp_path):
    arguments = '{"price": 1.5, "count": -10, "version": "1.10 or 1e5", "id": 123456789012345678901234}'
    calls = [{"function": {"name": "f", "arguments": arguments}}]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    [record] = read_bytes(tmp_path, lines({"messages": turns})).records
    assert record["messages"][1]["tool_calls"] == calls


@pytest.mark.parametrize(
    ("question", "kept"), [("<img>https://x.org/a.jpeg</img> Who?", 1), ("What does <img src='a.jpeg'> do?", 2)]
)
def test_an_image_in_the_text_of_a_question_is_another_modality(tmp_path, question, kept):
    found = read_bytes(tmp_path, lines({"query": "a", "response": "b"}, {"query": question, "response": "b"}))
    assert (len(found.records), found.facts["sources"][0]["set_aside"]) == (kept, 2 - kept)


CALL = {"name": "f", "arguments": {"x": "y"}}
TOOLS = [{"name": "f", "parameters": {}}]
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]}


@pytest.mark.parametrize(
    "answers", [json.dumps([CALL]), [CALL], json.dumps(CALL), [{"type": "function", "function": CALL}]]
)
def test_answers_that_are_calls_of_the_tools_beside_them_are_tool_calls(tmp_path, answers):
    record = {"id": 1, "query": "a", "answers": answers, "tools": json.dumps(TOOLS)}
    found = read_bytes(tmp_path, lines(record, {**record, "answers": "no tool fits"}))
    text = {"role": "assistant", "content": "no tool fits"}
    assert [record["messages"] for record in found.records] == [[USER, CALLED], [USER, text]]
    assert found.records[0]["tools"] == TOOLS
    assert "answers that are calls become tool calls" in found.facts["sources"][0]["evidence"]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ("[]", "bad_tool_call"),
        ('[{"name": "f", "parameters": {}}]', "bad_tool_call"),
        ('[{"name": "f", "arguments": {"x": 1.10}}]', "inexact_number"),
    ],
)
def test_calls_in_answers_that_are_no_good_are_refused_and_not_learned_as_text(tmp_path, answers, reason):
    good = {"query": "a", "answers": json.dumps([CALL]), "tools": TOOLS}
    found = read_bytes(tmp_path, lines(*[good] * 30, {**good, "answers": answers}))
    assert found.facts["reasons"] == {reason: 1}


def test_numbers_of_calls_that_stand_in_an_answer_keep_their_spelling_or_are_refused(tmp_path):
    good = json.dumps({"query": "a", "answers": [CALL], "tools": TOOLS})
    found = read_bytes(tmp_path, "\n".join([good] * 30 + [good.replace('"y"', "1.10")]).encode())
    assert found.facts["reasons"] == {"inexact_number": 1}


def test_a_key_of_a_call_that_means_nothing_is_named_and_refused_where_it_has_text(tmp_path):
    calls = [{"index": 0, "function": {**CALL, "why": "since it fits"}}]
    record = {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": calls}]}
    with pytest.raises(DataError, match=r"messages\[\]\.tool_calls\[\]\.function\.why \(1 of the first 1 records"):
        read_bytes(tmp_path, lines(record))
    ignored = "messages[].tool_calls[].function.why"
    found = read_bytes(tmp_path, lines(record), ignore=[ignored])
    assert [item["name"] for item in found.facts["sources"][0]["unused"]] == [ignored, "messages[].tool_calls[].index"]
    assert found.records[0]["messages"][1]["tool_calls"] == [{"function": CALL}]


def test_a_call_among_the_parts_of_a_content_is_a_tool_call(tmp_path):
    thought, text = {"type": "reasoning", "value": "hm"}, {"type": "text", "value": "so"}
    for call in ({"type": "tool_call", "value": json.dumps(CALL)}, {"type": "function_call", "function_call": CALL}):
        turn = {"role": "assistant", "content": [thought, text, call]}
        made = read_bytes(tmp_path, lines({"messages": [USER, turn]})).records[0]["messages"][1]
        assert made == {**CALLED, "content": "so", "reasoning_content": "hm"}
    asked = {"role": "user", "content": [{"type": "tool_call", "value": json.dumps(CALL)}]}
    found = read_bytes(tmp_path, lines({"messages": [asked, ANSWER]}, *[{"messages": [USER, ANSWER]}] * 30))
    assert found.facts["reasons"] == {"bad_tool_call": 1}


def test_turns_that_end_in_a_result_are_the_prompt_of_two_answers(tmp_path):
    called = {"from": "function_call", "value": json.dumps(CALL)}
    turns = [{"from": "human", "value": "a"}, called, {"from": "observation", "value": "z"}]
    records = [{"conversations": turns[:n], "tools": json.dumps(TOOLS), "chosen": "b", "rejected": "c"} for n in (1, 3)]
    found = read_bytes(tmp_path, lines(*records), method="dpo").records
    roles = [[turn["role"] for turn in record["messages"]] for record in found]
    assert roles == [["user"], ["user", "assistant", "tool"]]
    assert found[1]["chosen"] == [ANSWER]


def sentence_of(tmp_path, *records, **policy):
    with pytest.raises(DataError) as caught:
        read_bytes(tmp_path, lines(*records), **policy)
    return str(caught.value)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            {"toy_system": "Be kind.", "toy_input": "a", "toy_output": "b"},
            "{system: toy_system, prompt: toy_input, completion: toy_output}",
        ),
        ({"say": {"en": "a", "fr": "b"}}, "{prompt: say.en, completion: say.fr} or data.columns: {prompt: say.fr"),
        ({"note": "a", "left": "long text", "right": "longer text"}, "{prompt: left, completion: right} or data"),
        ({"source_filename": "a.pdf", "left": "a", "right": "b"}, "{prompt: left, completion: right} or data.columns"),
        ({"question": [[{"role": "user", "content": "a"}]], "gold": "b"}, '{prompt: "question[0][0].content", compl'),
    ],
)
def test_the_line_for_columns_of_other_names_has_question_and_answer(tmp_path, record, line):
    assert line in sentence_of(tmp_path, record, record)


@pytest.mark.parametrize(
    ("answer", "change"),
    [(["b", "c", "d"], 'join("\\n")'), ({"x": "b", "y": "c"}, "tojson"), ([{"x": "b"}, "c"], "tojson")],
)
def test_a_line_that_takes_a_part_of_an_answer_says_how_to_take_all_of_it(tmp_path, answer, change):
    said = sentence_of(tmp_path, {"instruction": "a", "output": answer})
    assert "leaves out the rest of 'output': to make all of it one text use `jq -c 'if type == \"array\"" in said
    assert f'.["output"] |= {change}\' FILE > lines.jsonl`' in said


def test_an_answer_beside_questions_that_are_messages_is_found_at_any_depth(tmp_path):
    record = {"prompt": [USER], "reward_model": {"ground_truth": "7"}, "extra_info": {"answer": "3 + 4 = 7"}}
    assert "{prompt: prompt, completion: extra_info.answer}" in sentence_of(tmp_path, record)
    columns = {"prompt": "prompt", "completion": "extra_info.answer"}
    made = read_bytes(tmp_path, lines(record), columns=columns).records[0]["messages"]
    assert made == [USER, {"role": "assistant", "content": "3 + 4 = 7"}]


def test_turns_without_an_answer_name_the_role_that_may_answer(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    assert sentence_of(tmp_path, {"messages": turns}).endswith("write data.roles: {system: assistant}.")
    assert read_bytes(tmp_path, lines({"messages": turns}), roles={"system": "assistant"}).records
    assert "data.roles" not in sentence_of(tmp_path, {"messages": turns[:1]})


def test_token_ids_paths_of_sound_and_records_under_keys_are_told(tmp_path):
    assert "token ids" in sentence_of(tmp_path, {"input_ids": [1, 2], "labels": [-100, 2]})
    assert "audio}" not in sentence_of(tmp_path, {"audio": "a/1.wav", "text": ""})
    assert "`jq -c '.[]' FILE > lines.jsonl`" in sentence_of(
        tmp_path, {"a/1": {"ask": "a", "say": "b"}, "a/2": {"ask": "c", "say": "d"}}
    )


def test_two_answers_without_a_question_get_the_line_that_names_it(tmp_path):
    record = {"situation": "a longer text", "chosen": "b", "rejected": "c"}
    assert "{prompt: situation, chosen: chosen, rejected: rejected} to use it" in sentence_of(tmp_path, record)


def test_a_rendered_question_with_its_answer_in_another_column_is_a_pair(tmp_path):
    record = {"prompt": "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "response": "d"}
    [made] = read_bytes(tmp_path, lines(record)).records
    assert [(turn["role"], turn["content"], turn.get("weight")) for turn in made["messages"]] == [
        ("user", "a", None),
        ("assistant", "b", 0),
        ("user", "c", None),
        ("assistant", "d", None),
    ]


def test_an_answer_that_was_rejected_is_never_suggested_as_the_answer(tmp_path):
    record = {"prompt": "Human: a\n\nAssistant:", "chosen": "b", "rejected_toxic": "c", "rejected_short": "d"}
    assert "{prompt: prompt, chosen: chosen, rejected: rejected_toxic}" in sentence_of(tmp_path, record, record)


def test_labels_of_tokens_are_no_bookkeeping(tmp_path):
    assert "ner_tags (1 of the first 1 records" in sentence_of(tmp_path, {"text": "a b", "ner_tags": ["O", "B-X"]})


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"NL": "how many", "Query": "SELECT 1"}, "completion: NL} or data.columns: {prompt: NL, completion: Query}"),
        ({"ask": "a", "original_chosen": "b", "why": "c"}, "{prompt: ask, completion: original_chosen}"),
        ({"code": "def f(): pass", "des": "does nothing"}, "{prompt: code, completion: des} to use it, or data.ignore"),
        ({"title": "t", "parts": [{"source": "a", "target": "b"}] * 2}, '.["parts"][]\' FILE'),
        ({f"w{n}": f"text {n}" for n in range(20)}, "to_entries[] | {prompt: .key, completion: .value}"),
    ],
)
def test_lines_for_files_that_people_have(tmp_path, record, line):
    assert line in sentence_of(tmp_path, *[record] * (1 if "w0" in record else 2))


@pytest.mark.parametrize(
    "odd",
    [{"prompt": 5, "completion": "b"}, {"prompt": ["a"], "completion": "b"}, {"prompt": "a", "completion": ["b"]}],
)
@pytest.mark.parametrize("place", [0, 7])
def test_a_record_of_other_types_is_set_aside_and_costs_no_other(tmp_path, odd, place):
    records = [{"prompt": f"q{number}", "completion": f"a{number}"} for number in range(29)]
    records.insert(place, odd)
    found = read_bytes(tmp_path, lines(*records))
    assert found.facts["records"] == 29 and found.facts["reasons"] == {"wrong_type": 1}
    assert found.quarantine[0]["line"] == place + 1


@pytest.mark.parametrize("odd", [7, {"a": "x"}, [7]])
def test_a_context_of_another_type_is_set_aside_with_its_record(tmp_path, odd):
    records = [{"instruction": f"q{number}", "input": f"c{number}", "output": f"a{number}"} for number in range(30)]
    records[4]["input"] = odd
    found = read_bytes(tmp_path, lines(*records))
    assert found.facts["reasons"] == {"wrong_type": 1} and found.quarantine[0]["line"] == 5
    assert len(found.records) == 29 and all(f"c{record['line'] - 1}" in str(record) for record in found.records)


def test_markup_is_seen_beside_a_record_of_another_type(tmp_path):
    pair = {"prompt": "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n", "completion": "b<|im_end|>"}
    records = [pair] * 29
    plain = read_bytes(tmp_path, lines(*records))
    odd = read_bytes(tmp_path, lines(*records, {"prompt": 5, "completion": "b"}))
    assert odd.records == plain.records and odd.facts["reasons"] == {"wrong_type": 1}


@pytest.mark.parametrize("texts", [["b"], ["b", "c"], ["b", "c", "d"]])
def test_a_list_of_texts_that_is_named_as_an_answer_is_no_dialogue(tmp_path, texts):
    records = [{"prompt": "a", "steps": "b"}] * 30 + [{"prompt": "a", "steps": texts}]
    found = read_bytes(tmp_path, lines(*records), columns={"prompt": "prompt", "completion": "steps"})
    assert found.facts["reasons"] == {"wrong_type": 1}
    assert found.quarantine[0]["detail"] == f"'steps' is a list of {len(texts)} texts, it must be text or messages"


def test_a_suggested_place_is_one_that_nearly_all_records_have(tmp_path):
    full = {"ask": "a", "data": {"sky": "b", "air": "c"}}
    records = [full] * 8 + [{"ask": "a", "data": {"sky": "b", "air": None}}] * 2
    assert "completion: data.sky}" in sentence_of(tmp_path, *records)


def test_the_limit_of_bad_lines_is_offered_as_it_would_have_to_be(tmp_path):
    records = [{"prompt": "a", "completion": "b"}] * 9 + [{"prompt": "a", "completion": ""}]
    said = sentence_of(tmp_path, *records, max_bad_fraction=0.05)
    assert said.endswith("or write data.max_bad_fraction: 0.1.")
    assert len(read_bytes(tmp_path, lines(*records), max_bad_fraction=0.1).records) == 9
    blank = {"messages": [USER, {"role": "assistant", "content": ""}]}
    assert sentence_of(tmp_path, blank, max_bad_fraction=0.05).endswith("data.format or data.columns.")


@pytest.mark.parametrize("pairs", [True, False])
def test_a_rendered_prompt_with_two_plain_answers_is_taken_apart(tmp_path, pairs):
    record = {"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "chosen": "d", "rejected": "e"}
    found = read_bytes(tmp_path, lines(record, record), method="dpo" if pairs else "sft")
    turns = [(turn["role"], turn["content"]) for turn in found.records[0]["messages"]]
    asked = [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert turns == (asked if pairs else [*asked, ("assistant", "d")])
    assert "Human/Assistant markup parsed" in found.facts["sources"][0]["evidence"]
    if pairs:
        assert [found.records[0][name][0]["content"] for name in ("chosen", "rejected")] == ["d", "e"]


@pytest.mark.parametrize(
    "record",
    [
        {"": "hello there"},
        {"": [USER, ANSWER]},
        {"": "Human:a\nAssistant:"},
        {"chosen_answer": "1", "outputs": "test", "rejected": "Human:a\nAssistant:", "code": "http://a.b/c"},
        {"x y": {"conversations": ["c", "text"], "chosen_response": "test"}, "": "b"},
    ],
)
def test_a_record_of_any_shape_is_read_or_refused_in_one_sentence(tmp_path, record):
    """Found by random records: columns without a name, and rejected answers without a question."""
    assert "\n" not in sentence_of(tmp_path, record)


def test_an_empty_name_in_columns_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.columns: prompt is empty: name the column"):
        read_bytes(tmp_path, lines({"prompt": "a", "completion": "b"}), columns={"prompt": ""})
