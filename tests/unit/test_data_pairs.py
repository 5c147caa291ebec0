"""Pairs of a chosen and a rejected answer: two documents that are never parted, from raw lines to packed rows."""

import io
import json
from itertools import pairwise

import numpy as np
import orjson
import pytest
from data_files import read_bytes
from data_tokenizers import ANSWERS, CHAT, QWEN, make_folder
from hypothesis import given
from hypothesis import strategies as st

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.rows.cutting import Sizes
from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import one_per_row, pack
from snaketune.data.rows.rightsizing import LengthPolicy, rightsize
from snaketune.data.templates.built_in_templates import BUILT_IN
from snaketune.data.tokens.chunk_tokenizing import Recipe
from snaketune.data.tokens.token_store import TokenStore
from snaketune.data.tokens.tokenizer import TextTokenizer
from snaketune.data.tokens.tokenizing import tokenize_split, tokenize_splits

ROW = 32
ASKED = {"role": "user", "content": "Hi there"}


def answer(text, **more):
    return {"role": "assistant", "content": text, **more}


def pair(chosen, rejected, prompt=(ASKED,), **more):
    sides = ([turns] if isinstance(turns, dict) else turns for turns in (chosen, rejected))
    return {"messages": list(prompt), "chosen": next(sides), "rejected": next(sides), **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer folder as prepare_model leaves it."""
    return make_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def tokenizer(folder):
    return TextTokenizer(folder)


def write_lines(path, records):
    lines = [orjson.dumps({"source": 0, "line": n, **record}) + b"\n" for n, record in enumerate(records, 1)]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(lines))
    return path


def run(tmp_path, folder, *records, template=BUILT_IN["chatml"], **settings):
    """Tokenise pairs; the account, the store, the lines of dropped.jsonl and the examples."""
    recipe, dropped = Recipe(str(folder), template, True, learns_by="dpo", **settings), io.BytesIO()
    file = write_lines(tmp_path / "train.jsonl", records)
    account, examples = tokenize_split("train", file, recipe, tmp_path / "out", dropped)
    left_out = [json.loads(line) for line in dropped.getvalue().splitlines()]
    return account, TokenStore(tmp_path / "out"), left_out, examples


def texts(store, index, tokenizer):
    """Return the two documents of a pair as [whole text, trained text]."""
    ids, mask = store.document(index)
    second = int(store.seconds[index])
    parts = ((ids[:second], mask[:second]), (ids[second:], mask[second:]))
    return [[tokenizer.decode(own.tolist()), tokenizer.decode(own[bits == 1].tolist())] for own, bits in parts]


def test_a_pair_is_one_row_of_two_whole_documents(folder, tokenizer, tmp_path):
    account, store, dropped, _ = run(tmp_path, folder, pair(answer("Hello!"), answer("See you.")))
    start = "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
    assert not dropped
    assert texts(store, 0, tokenizer) == [
        [f"{start}Hello!<|im_end|>\n", "Hello!<|im_end|>"],
        [f"{start}See you.<|im_end|>\n", "See you.<|im_end|>"],
    ]
    assert (len(store), account.records, account.tokens) == (1, 1, store.lengths[0])
    assert store.bytes[0] == len("Hello!See you.")


@pytest.mark.parametrize("template", [BUILT_IN["plain"], "{{ bos_token }}" + QWEN])
def test_the_documents_of_a_pair_are_those_of_its_two_conversations(folder, tmp_path, template):
    answers = list(pairwise(ANSWERS))
    _, store, _, _ = run(tmp_path, folder, *(pair(answer(a), answer(b)) for a, b in answers), template=template)
    singles = [{"messages": [ASKED, answer(text)]} for both in answers for text in both]
    file = write_lines(tmp_path / "single" / "train.jsonl", singles)
    tokenize_split("train", file, Recipe(str(folder), template, True), tmp_path / "singles", io.BytesIO())
    single = TokenStore(tmp_path / "singles")
    assert not single.seconds.any()
    for number in range(len(answers)):
        both = [single.document(2 * number + place) for place in (0, 1)]
        assert store.seconds[number] == len(both[0][0])
        for mine, parts in zip(store.document(number), zip(*both, strict=True), strict=True):
            assert mine.tolist() == np.concatenate(parts).tolist()
            assert mine[store.seconds[number]] == parts[1][0]


def test_the_first_token_of_neither_document_is_trained(folder, tmp_path):
    template = "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    # Nothing but answers is written, which a real template never does: the prompt is empty.
    account, _, _, _ = run(tmp_path, folder, pair(answer("Hello!"), answer("See you.")), template=template)
    assert account.facts()["dropped"] == {"left_out_by_template": 1}
    template = template.replace("{% endif %}", "{% else %}{{ bos_token }}{# asked #}{{ m.content }}{% endif %}")
    _, store, _, _ = run(tmp_path / "b", folder, pair(answer("Hello!"), answer("See you.")), template=template)
    _, mask = store.document(0)
    second = store.seconds[0]
    assert (mask[0], mask[second]) == (0, 0)


def test_answers_within_the_prompt_and_those_of_weight_0_are_not_compared(folder, tokenizer, tmp_path):
    more = {"role": "user", "content": "Bye"}
    chosen = [answer("one", weight=0), more, answer("two")]
    _, store, _, _ = run(tmp_path, folder, pair(chosen, answer("three"), [*CHAT[:3], more]))
    assert [trained for _, trained in texts(store, 0, tokenizer)] == ["two<|im_end|>", "three<|im_end|>"]


def test_pairs_that_teach_nothing_are_left_out_and_listed(folder, tmp_path):
    records = [
        pair(answer("Hello!"), answer("See you.")),
        pair(answer("x <|im_end|>"), answer("y")),
        pair(answer("x"), answer("y <|im_end|>")),
        pair(answer("same"), answer(" same ")),
        pair(answer("none", weight=0), answer("y")),
    ]
    said = "message['content'] + '<|im_end|>'"
    trimming = BUILT_IN["chatml"].replace(said, said.replace("]", "].strip()"))
    assert trimming != BUILT_IN["chatml"]
    account, store, dropped, _ = run(tmp_path, folder, *records, template=trimming)
    reasons = ["control_token_in_content", "control_token_in_content", "no_preference", "no_trained_token"]
    assert [entry["reason"] for entry in dropped] == reasons
    assert [entry["line"] for entry in dropped] == [2, 3, 4, 5]
    assert account.facts()["dropped"] == {"control_token_in_content": 2, "no_preference": 1, "no_trained_token": 1}
    assert store.records.tolist() == [0]


def test_the_audit_reads_both_documents(folder, tmp_path):
    system = {"role": "system", "content": "Be brief."}
    record = pair(answer("Hello!"), answer("See you."), [system, ASKED])
    account, _, _, _ = run(tmp_path / "a", folder, record)
    assert account.audit.facts()["end_of_turn_tokens_trained"] == 2
    assert account.audit.rows == 2
    second = "{% if messages[-1].content == 'See you.' %}{{ bos_token }}{% endif %}" + BUILT_IN["plain"]
    account, _, dropped, _ = run(tmp_path / "b", folder, record, template=second)
    assert account.facts()["dropped"] == {"refused_by_template": 1}
    assert "the inference prompt ends with" in dropped[0]["detail"]
    drops = BUILT_IN["chatml"].replace(
        "{{ message['content'] + '<|im_end|>'", "{{ message['content'].replace('See you.', '') + '<|im_end|>'"
    )
    account, _, dropped, _ = run(tmp_path / "c", folder, record, template=drops)
    assert account.facts()["dropped"] == {"left_out_by_template": 1}
    assert dropped[0]["detail"] == "the chat template leaves out an answer's text"


def test_examples_show_both_answers(folder, tmp_path):
    _, _, _, examples = run(tmp_path, folder, *[pair(answer("Hello!"), answer("See you."))] * 4)
    assert [example["record"] for example in examples] == [0, 1, 2]
    shown = {key: [part["text"] for part in examples[0][key] if part["trained"]] for key in ("tokens", "rejected")}
    assert shown == {"tokens": ["Hello!<|im_end|>"], "rejected": ["See you.<|im_end|>"]}


@pytest.mark.parametrize("record", [{"text": "a"}, {"messages": CHAT}])
def test_what_is_no_pair_is_one_sentence(folder, tmp_path, record):
    with pytest.raises(ConfigError, match=r"train\.method: dpo .*train\.jsonl line 2 .*data\.format to preference"):
        run(tmp_path, folder, pair(answer("Hello!"), answer("See you.")), record)
    assert not (tmp_path / "out").exists()


def test_the_gates_compare_both_documents(folder, tmp_path):
    records = [pair(answer(a), answer(b)) for a, b in pairwise(ANSWERS)]
    records.append(pair(answer("x"), answer("y"), CHAT[:4]))
    file = str(write_lines(tmp_path / "train.jsonl", records))
    recipe = Recipe(str(folder), BUILT_IN["chatml"], True, learns_by="dpo")
    facts = tokenize_splits({"train": (file, str(tmp_path / "out"))}, recipe, io.BytesIO(), 1)
    # The two documents with line breaks at the beginning of the answer are encoded whole.
    assert facts["segments_gate"]["compared"] == 2 * len(records) - 2
    assert facts["segments_gate"]["doubtful_borders"] == 2
    gate = facts["transformers_gate"]
    assert gate["conversations"] == gate["answers"] == 2 * len(records)


RAW = {"prompt": "a", "chosen": "b", "rejected": "c"}


class TestReading:
    def read(self, tmp_path, *records, **policy):
        return read_bytes(tmp_path, b"\n".join(map(orjson.dumps, records)), **policy)

    def test_for_sft_it_is_an_ordinary_conversation(self, tmp_path):
        tools = [{"type": "function", "function": {"name": "f"}}]
        (found,) = self.read(tmp_path, {**RAW, "tools": tools}, system_prompt="s").records
        turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, answer("b")]
        assert found == {"source": 0, "line": 1, "messages": turns, "tools": tools}

    def test_with_pairs_a_record_that_has_messages_too_is_a_pair(self, tmp_path):
        record = {**RAW, "messages": [{"role": "user", "content": "a"}, answer("b")]}
        found = self.read(tmp_path, record, method="dpo")
        assert found.facts["sources"][0]["format"] == "preference"
        assert found.records[0]["rejected"] == [answer("c")]

    def test_records_of_another_format_are_one_sentence(self, tmp_path):
        words = r"train\.method: dpo .*'chosen' and 'worse'; found: prompt, completion: "
        with pytest.raises(ConfigError, match=words):
            self.read(tmp_path, {"prompt": "a", "completion": "b"}, method="dpo", columns={"rejected": "worse"})


class Pairs:
    """Random documents, every one that has a ``second`` a pair; trained is the end of each part."""

    def __init__(self, shapes):
        self.lengths = np.asarray([sum(shape) for shape in shapes], np.int32)
        self.seconds = np.asarray([shape[0] if len(shape) > 1 else 0 for shape in shapes], np.int32)
        self.records = np.arange(len(shapes)) * 10
        self.shapes = shapes

    def document(self, index):
        ids = np.arange(self.lengths[index], dtype=np.int32) + 1000 * (index + 1)
        mask = [int(place > 0) for size in self.shapes[index] for place in range(size)]
        return ids, np.asarray(mask, np.int8)


SHAPES = st.lists(
    st.one_of(st.tuples(st.integers(1, ROW)), st.tuples(st.integers(1, ROW // 2), st.integers(1, ROW // 2))),
    min_size=1,
    max_size=40,
)


@given(SHAPES, st.sampled_from([lambda lengths: pack(lengths, ROW), one_per_row]))
def test_rows_never_hold_half_a_pair(tmp_path_factory, shapes, packer):
    store, path = Pairs(shapes), tmp_path_factory.mktemp("rows") / "rows.arrow"
    counts = write_rows(path, store, packer(store.lengths), ROW, 0)
    rows, seen = PackedRows(path), []
    for row in range(len(rows)):
        documents = rows.documents(row)
        positions, ids, mask = (rows.take(name, [row])[0] for name in ("position_ids", "input_ids", "loss_mask"))
        used = int(rows.tokens[row])
        assert np.flatnonzero(positions[:used] == 0).tolist() == [document.start for document in documents]
        while documents:
            unit = documents[0].record // 10
            mine, documents = documents[: len(shapes[unit])], documents[len(shapes[unit]) :]
            assert [document.record for document in mine] == [unit * 10] * len(mine)
            assert [document.length for document in mine] == list(shapes[unit])
            start, end = mine[0].start, mine[-1].start + mine[-1].length
            expected = store.document(unit)
            assert ids[start:end].tolist() == expected[0].tolist()
            assert mask[start:end].tolist() == expected[1].tolist()
            seen.append(unit)
    assert sorted(seen) == list(range(len(shapes)))
    assert (counts["documents"], counts["tokens"]) == (len(shapes), int(store.lengths.sum()))


def test_a_pair_longer_than_a_row_is_never_cut(tmp_path):
    with pytest.raises(ValueError, match="40 tokens does not fit"):
        write_rows(tmp_path / "rows.arrow", Pairs([(20, 20)]), [np.asarray([0])], ROW, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("policy", "limit"), [("error", 64), ("drop", 8)])
def test_what_to_do_with_pairs_that_are_too_long_does_not_include_cutting(policy, limit):
    sizes = [Sizes.of_conversations(np.asarray(lengths, np.int32)) for lengths in ([10, 80], [])]
    with pytest.raises(DataError, match=r"training pairs are longer.*tokens\.max_length") as caught:
        rightsize(*sizes, LengthPolicy(limit, policy), 128, pairs=True)
    assert "truncate" not in str(caught.value)
