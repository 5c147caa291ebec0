"""Answers with a label, for `train.method: kto`: how they are read, split and tokenised, and what is refused."""

import io

import numpy as np
import orjson
import pytest
from data_files import read_bytes
from data_tokenizers import make_folder

from snaketune.core.errors import ConfigError
from snaketune.data.records.canonical_records import exact_bytes, prompt_of, turns_of
from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import pack
from snaketune.data.templates.built_in_templates import BUILT_IN
from snaketune.data.tokens.chunk_tokenizing import Recipe
from snaketune.data.tokens.token_store import TokenStore
from snaketune.data.tokens.tokenizing import tokenize_split

ASK, SAY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def read(tmp_path, *records, **policy):
    return read_bytes(tmp_path, b"\n".join(map(orjson.dumps, records)), **{"method": "kto", **policy})


@pytest.mark.parametrize(
    ("good", "bad"), [(True, False), (1, 0), (1.0, 0.0), ("true", "False"), ("thumbs_up", "thumbs_down"), (1, -1)]
)
@pytest.mark.parametrize("name", ["label", "kto_tag", "is_correct", "feedback"])
def test_a_label_makes_an_answer_a_good_or_a_bad_one(tmp_path, name, good, bad):
    raw = [{"prompt": "a", "completion": "b", name: value} for value in (good, bad, good)]
    found = read(tmp_path, *raw).records
    assert [sorted(record.keys() & {"chosen", "rejected"}) for record in found] == [
        ["chosen"],
        ["rejected"],
        ["chosen"],
    ]
    assert found[0] == {"source": 0, "line": 1, "messages": [ASK], "chosen": [SAY]}
    assert found[1] == {"source": 0, "line": 2, "messages": [ASK], "rejected": [SAY]}


def test_conversations_and_turns_in_columns_keep_all_but_the_answer_as_prompt(tmp_path):
    system = {"role": "system", "content": "s"}
    whole = {"messages": [system, ASK, SAY, ASK, {**SAY, "content": "c"}], "label": False}
    split = {"prompt": [system, ASK], "completion": [SAY], "label": True}
    (one,) = read(tmp_path, whole).records
    assert (one["messages"], one["rejected"]) == ([system, ASK, SAY, ASK], [{**SAY, "content": "c"}])
    (other,) = read(tmp_path, split).records
    assert (other["messages"], other["chosen"]) == ([system, ASK], [SAY])


def test_pairs_stay_pairs_and_a_named_column_is_used(tmp_path):
    (pair,) = read(tmp_path, {"prompt": "a", "chosen": "b", "rejected": "c"}).records
    assert pair["chosen"] == [SAY] and pair["rejected"] == [{**SAY, "content": "c"}]
    (named,) = read(tmp_path, {"prompt": "a", "completion": "b", "ok": "no"}, columns={"label": "ok"}).records
    assert named["rejected"] == [SAY]
    inner = {"prompt": "a", "completion": "b", "meta": {"ok": 1}}
    (found,) = read(tmp_path, inner, columns={"label": "meta.ok"}).records
    assert found["chosen"] == [SAY]


@pytest.mark.parametrize("value", [None, "maybe", 3, 0.5, [True], ""])
def test_a_value_that_is_no_label_puts_the_record_aside(tmp_path, value):
    raw = [{"prompt": f"a{n}", "completion": "b", "label": n % 2 == 0} for n in range(6)]
    found = read(tmp_path, *raw, {"prompt": "z", "completion": "b", "label": value}, columns={"label": "label"})
    assert len(found.records) == 6
    assert [line["reason"] for line in found.quarantine] == ["no_label"]


@pytest.mark.parametrize(
    ("record", "policy", "words"),
    [
        ({"prompt": "a", "completion": "b"}, {}, "no column is known to be such a label .*there is nothing"),
        ({"prompt": "a", "completion": "b", "stars": 1}, {}, r"\{columns: \{label: stars\}\}"),
        ({"prompt": "a", "completion": "b", "label": True, "is_correct": False}, {}, "both say .* and differ"),
        ({"prompt": "a", "completion": "b"}, {"method": "sft", "columns": {"label": "ok"}}, "for train.method: kto"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "ok": 1}, {"columns": {"label": "ok"}}, "records are pairs"),
    ],
)  # fmt: skip
def test_what_is_no_label_is_one_sentence(tmp_path, record, policy, words):
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, record, record, **policy)


def test_all_answers_to_a_prompt_stay_in_one_split_and_labels_tell_records_apart():
    good, bad = ({"source": 0, "line": 1, "messages": [ASK], name: [SAY]} for name in ("chosen", "rejected"))
    assert prompt_of(turns_of(good)) == prompt_of(turns_of(bad)) == [("user", "a")]
    later = {"messages": [ASK, SAY, ASK], "rejected": [SAY]}
    assert prompt_of(turns_of(later)) == [("user", "a"), ("assistant", "b"), ("user", "a")]
    pair = {"messages": [ASK], "chosen": [SAY], "rejected": [{**SAY, "content": "c"}]}
    assert prompt_of(turns_of(pair)) == [("user", "a")]
    assert exact_bytes(dict(good)) != exact_bytes(dict(bad))


def test_rows_know_which_answers_are_bad(tmp_path):
    folder = make_folder(tmp_path / "model")
    sides = ({"chosen": [SAY]}, {"rejected": [SAY]}, {"chosen": [SAY], "rejected": [{**SAY, "content": "c"}]})
    records = [{"source": 0, "line": n, "messages": [ASK], **side} for n, side in enumerate(sides, 1)]
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    recipe = Recipe(str(folder), BUILT_IN["chatml"], True, learns_by="kto")
    _, examples = tokenize_split("train", path, recipe, tmp_path / "out", io.BytesIO())
    store = TokenStore(tmp_path / "out")
    assert store.seconds[:2].tolist() == [0, -1] and store.seconds[2] > 0
    assert [sorted(example) for example in examples] == [
        ["record", "tokens"], ["record", "rejected"], ["record", "rejected", "tokens"]
    ]  # fmt: skip
    length = int(store.lengths.sum())
    write_rows(tmp_path / "rows", store, pack(store.lengths, length), length, 0)
    rows = PackedRows(tmp_path / "rows")
    labels = {}
    for document, bad in zip(rows.documents(0), rows.rejected(0).tolist(), strict=True):
        labels.setdefault(document.record, []).append(bad)
    assert labels == {0: [False], 1: [True], 2: [False, True]}
    trained = np.concatenate([rows.loss_mask[0][d.start : d.start + d.length] for d in rows.documents(0)])
    assert trained.sum() > 0
