"""The short way of ordinary records gives what the long way gives, and what reading starts with."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from snaketune.data.formats.formats import default_reading
from snaketune.data.records.conversion import RecordConverter
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.records.reading_policy import ReadingPolicy, SourceReading
from snaketune.data.templates import ordinary

CONTENTS = ("a", "", " \n", "a <b> c", "see <image> here", "<img>x.png</img>", None, 3, ["a"], {"parts": ["a"]})


def made(converter, record):
    """What becomes of a record: the canonical one or the refusal, and what was seen of it."""
    try:
        found = converter(record)
    except RefusedLine as refusal:
        found = (refusal.reason, refusal.detail)
    seen = converter.seen()
    return found, seen.unused, seen.found, seen.used


def compare(reading, records, policy=None):
    """Compare both ways, and return how many of the records took the short one."""
    policy = policy or ReadingPolicy()
    quick, slow = RecordConverter(reading, policy), RecordConverter(reading, policy)
    short, taken = quick._short, []
    quick._short = lambda record: taken.append(short(record)) or taken[-1]
    slow._short, slow._plain = ordinary.never_ordinary, frozenset()
    for record in records:
        assert made(quick, record) == made(slow, record), record
    return sum(found is not None for found in taken)


def conversations():
    roles = ("system", "user", "assistant", "tool", "User", None)
    for count in (0, 1, 2, 3, 4):
        for chosen in itertools.product(roles[: 6 if count < 4 else 3], repeat=count):
            yield [{"role": role, "content": f"{place}é"} for place, role in enumerate(chosen)]
    for system, asked, answer in itertools.product(CONTENTS, repeat=3):
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        yield turns
        yield [{"role": "system", "content": system}, *turns]
    for more in ({"weight": 0}, {"id": "x"}, {"name": "Ann"}, {"reasoning_content": "r"}, {"tools": [{"name": "f"}]}):
        for place in range(2):
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            turns[place] |= more
            yield turns
    yield from (None, "a", {"messages": []}, [None], ["a", "b"], [{"content": "a", "role": "user"}, "b"])
    yield [{"content": "a", "role": "user"}, {"content": "b", "role": "assistant"}]


def test_conversations_are_the_same_by_both_ways():
    records = [{"messages": turns} for turns in conversations()]
    records += [
        {**record, **more} for record in records for more in ({"id": "long text"}, {"system": "s"}, {"image": 1})
    ]
    assert compare(default_reading("messages", ReadingPolicy()), records) > 50


def test_roles_of_the_configuration_come_before_the_usual_ones():
    policy = ReadingPolicy(roles={"system": "user"})
    turns = [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert compare(default_reading("messages", policy), [{"messages": turns}], policy) == 0
    assert RecordConverter(default_reading("messages", policy), policy)({"messages": turns})["messages"][0] == {
        "role": "user",
        "content": "a",
    }


def test_pairs_are_the_same_by_both_ways():
    sides = itertools.product(CONTENTS, repeat=3)
    records = [{"instruction": a, "input": b, "output": c} for a, b, c in sides]
    records += [{name: value for name, value in record.items() if value is not None} for record in records]
    more = ({"id": 1}, {"system": "s"}, {"history": [["q", "r"]]}, {"reasoning": "r"}, {"context": "a"}, {"image": "x"})
    records += [{**record, **columns} for record in records for columns in more]
    assert compare(default_reading("instruction", ReadingPolicy()), records) > 50
    short = [{"prompt": a, "completion": b} for a, b in itertools.product(CONTENTS, repeat=2)]
    assert compare(default_reading("prompt_completion", ReadingPolicy()), short) > 3


def test_plain_texts_are_the_same_by_both_ways():
    records = [{"text": text, **more} for text in CONTENTS for more in ({}, {"id": 1}, {"title": "t"})]
    assert compare(default_reading("text", ReadingPolicy()), records) == 12


@pytest.mark.parametrize(
    "more",
    [{"system": "be brief"}, {"history": [["q", "r"]]}, {"reasoning": "so"}, {"system": "be brief", "id": 3}],
)
def test_an_input_is_kept_beside_other_fields(more):
    record = {"instruction": "sum up", "input": "the text", "output": "short", **more}
    converter = RecordConverter(default_reading("instruction", ReadingPolicy()), ReadingPolicy())
    asked = [turn["content"] for turn in converter(record)["messages"] if turn["role"] == "user"]
    assert asked[-1] == "sum up\n\nthe text"


def test_an_input_inside_another_column_is_kept():
    fields = (("prompt", "question"), ("completion", "answer"), ("input", "more.context"))
    record = {"question": "who?", "answer": "he", "more": {"context": "the text"}}
    messages = RecordConverter(SourceReading("prompt_completion", fields), ReadingPolicy())(record)["messages"]
    assert messages[0]["content"] == "who?\n\nthe text"


def test_reading_lines_starts_without_numpy():
    code = "import sys, snaketune.data.records.reading; assert not {'numpy', 'pyarrow'} & set(sys.modules)"
    scripts = Path(__file__).parents[2] / "scripts"
    subprocess.run([sys.executable, "-c", code], cwd=scripts, check=True)
