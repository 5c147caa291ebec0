import hashlib
import json
from collections import Counter

import pytest

from snaketune.data.quickstart import INTENTS, quickstart_lines, world_texts


def parsed(lines):
    """Return the records of the lines that are whole, as a reader would keep them."""
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("prompt") and record.get("completion"):
            records.append(record)
    return records


@pytest.fixture(scope="module")
def lines():
    return list(quickstart_lines())


@pytest.fixture(scope="module")
def texts():
    return list(world_texts())


def test_the_same_seed_gives_the_same_bytes_on_every_machine(lines):
    digest = hashlib.blake2b(b"".join(lines), digest_size=8).hexdigest()
    assert digest == "0bfafaf69ba2319e"
    assert list(quickstart_lines(seed=1)) != lines


def test_each_line_ends_once_and_only_at_its_end(lines):
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)


def test_the_blemishes_are_as_many_as_documented(lines):
    good = parsed(lines)
    assert len(lines) == 4045
    assert len(lines) - len(good) == 5
    assert len(good) - len({record["prompt"] for record in good}) == 40


def test_copies_are_exact(lines):
    repeated = [line for line, count in Counter(lines).items() if count > 1]
    assert len(repeated) == 40
    assert max(Counter(lines).values()) == 2


def test_each_broken_line_is_broken_in_its_own_way(lines):
    broken = [line for line in lines if not parsed([line])]
    unreadable = [line for line in broken if not line.endswith(b"}\n")]
    answers = [json.loads(line).get("completion", "missing") for line in broken if line not in unreadable]
    assert len(unreadable) == 2
    assert sorted(map(str, answers)) == ["", "None", "missing"]


def test_a_small_set_has_no_broken_line():
    assert len(parsed(quickstart_lines(50))) == len(list(quickstart_lines(50))) == 50


def test_a_completion_is_json_whose_values_occur_in_the_request(lines):
    for record in parsed(lines):
        call = json.loads(record["completion"])
        assert next(iter(call)) == "tool"
        assert all(str(value) in record["prompt"] for name, value in call.items() if name != "tool")


def test_each_tool_has_its_share(lines):
    tools = Counter(json.loads(record["completion"])["tool"] for record in parsed(lines))
    assert len(tools) == len(INTENTS)
    assert min(tools.values()) > 500


def test_one_request_has_one_answer(lines):
    answers = {}
    for record in parsed(lines):
        assert answers.setdefault(record["prompt"], record["completion"]) == record["completion"]


def test_the_world_shares_no_request_and_no_tool_call_with_the_task(lines, texts):
    records = parsed(quickstart_lines(20000))
    told = {line for text in texts for line in text.split("\n")}
    assert not told & {record["prompt"] for record in records}
    assert not told & {record["completion"] for record in records}
    assert any(line.startswith("{") for line in told)


def test_no_world_text_goes_from_a_request_to_json(texts):
    for text in texts:
        first, second = text.split("\n")
        assert ": " in (first if second.startswith("{") else second)
        assert not (second.startswith("{") and not first.startswith(json.loads(second)["tool"] + ": "))
        assert "<|" not in text


def test_every_word_of_an_answer_is_in_the_world(lines, texts):
    world = set(" ".join(texts).replace('"', " ").replace(",", " ").replace(":", " ").replace("}", " ").split())
    for record in parsed(lines):
        for value in json.loads(record["completion"]).values():
            assert set(str(value).split()) <= world


def test_nobody_takes_a_train_to_where_they_are(lines):
    calls = [json.loads(record["completion"]) for record in parsed(lines)]
    assert all(call["from"] != call["to"] for call in calls if call["tool"] == "train")


def test_asking_for_more_than_there_is_says_how_much_there_is():
    with pytest.raises(ValueError, match=r"has \d{5} requests"):
        list(quickstart_lines(10**6))
