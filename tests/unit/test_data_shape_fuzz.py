"""Records of random columns and values are read, set aside or refused in one sentence, whatever they hold."""

import random

import pytest

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.formats.choosing import decide
from snaketune.data.formats.columns import (
    ANSWER_PAIRS,
    COLUMN_NAMES,
    JUDGED,
    MAYBE_ANSWERS,
    MAYBE_QUESTIONS,
    SPLIT_COLUMNS,
    VERDICT_COLUMNS,
)
from snaketune.data.records.conversion import RecordConverter
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.records.reading_policy import ReadingPolicy

NAMED = {name for names in (*COLUMN_NAMES.values(), *ANSWER_PAIRS) for name in names}
COLUMNS = sorted(
    NAMED.union(MAYBE_ANSWERS, MAYBE_QUESTIONS, VERDICT_COLUMNS, JUDGED, SPLIT_COLUMNS, ("foo", "bar", "_x", "id", ""))
)
CHATML = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
TEXTS = (
    *("a", "some words", "", "  ", CHATML, CHATML + "b<|im_end|>", "Human: a\n\nAssistant: b", "Human:a\nAssistant:"),
    *("USER: a\n\nASSISTANT: b </s>", "[INST] a [/INST] b", "text </s>", "test", "true", "1", "<image>", "x" * 200),
    *('[{"name": "f", "arguments": {}}]', "http://a.b/c"),
)
ROLES = ("user", "assistant", "system", "tool", "human", "gpt", "student", "tutor", "Observer", "function")
FIELDS = ("prompt", "completion", "text", "messages", "chosen", "rejected", "input", "system", "keep")


def a_turn(choose):
    kind = choose.random()
    if kind < 0.5:
        turn = {"role": choose.choice(ROLES), "content": choose.choice((*TEXTS, None))}
    elif kind < 0.8:
        turn = {"from": choose.choice(ROLES), "value": choose.choice(TEXTS)}
    elif kind < 0.9:
        turn = {"user": choose.choice(TEXTS), "assistant": choose.choice(TEXTS)}
    else:
        turn = {"role": choose.choice(ROLES), "content": [{"type": "text", "text": choose.choice(TEXTS)}]}
    rare = {
        "name": "x",
        "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
        "weight": choose.choice((0, 1, 0.5)),
    }
    return turn | {key: value for key, value in rare.items() if choose.random() < 0.1}


def a_value(choose, depth=0):
    kind = choose.random()
    if kind < 0.45 or depth > 2:
        return choose.choice(TEXTS)
    if kind < 0.55:
        return choose.choice((1, 0, True, False, None, 1.5))
    if kind < 0.75:
        return [a_turn(choose) for _ in range(choose.randint(0, 4))]
    if kind < 0.82:
        return [choose.choice(TEXTS) for _ in range(choose.randint(0, 3))]
    inner = {choose.choice(COLUMNS): a_value(choose, depth + 1) for _ in range(choose.randint(0, 3))}
    return inner if kind < 0.9 else [inner] * choose.randint(0, 2)


def a_source(choose):
    """Records that mostly have the same columns and values, and a policy that sometimes names or ignores one."""
    columns = [choose.choice(COLUMNS) for _ in range(choose.randint(1, 4))]
    usual = {column: a_value(choose) for column in columns}
    records = [
        {
            column: usual[column] if choose.random() < 0.6 else a_value(choose)
            for column in columns
            if choose.random() < 0.95
        }
        for _ in range(choose.randint(1, 4))
    ]
    named = {choose.choice(FIELDS): columns[0]} if columns[0] and choose.random() < 0.15 else {}
    ignored = columns[-1:] if choose.random() < 0.1 else []
    return records, ReadingPolicy(columns=named, ignore=ignored, method="dpo" if choose.random() < 0.2 else "sft")


@pytest.mark.parametrize("batch", range(4))
def test_random_records_are_read_set_aside_or_refused_in_one_sentence(batch):
    outcomes = {"read": 0, "set aside": 0, "refused": 0}
    for seed in range(400):
        records, policy = a_source(random.Random(1000 * batch + seed))
        try:
            convert = RecordConverter(decide("x", records, range(1, 5), policy), policy)
        except (ConfigError, DataError) as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
            continue
        for record in records:
            try:
                convert(record)
                outcomes["read"] += 1
            except RefusedLine:
                outcomes["set aside"] += 1
    assert min(outcomes.values()) > 0, outcomes
