"""Margins of pairs, for `train.method: reward`: how they are read and reach the rows, and what is refused."""

import io

import numpy as np
import orjson
import pytest
from data_files import read_bytes
from data_tokenizers import make_folder
from report_case import facts_with, replaced

from snaketune.core.canonical import read_json
from snaketune.core.errors import ConfigError, DataError
from snaketune.core.manifest import write_manifest
from snaketune.data.records.accounting import summary_of
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.data.rows.packing_job import PackingJob, pack_splits
from snaketune.data.templates.built_in_templates import BUILT_IN
from snaketune.data.tokens.chunk_tokenizing import Recipe
from snaketune.data.tokens.tokenizing import tokenize_split
from snaketune.report.run.scores import score_chart

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


def read(tmp_path, *records, **policy):
    return read_bytes(tmp_path, b"\n".join(map(orjson.dumps, records)), **{"method": "reward", **policy})


@pytest.mark.parametrize(
    ("fields", "columns", "margin"),
    [
        ({"margin": 2}, {}, 2.0),
        ({"Margin": "0.5"}, {}, 0.5),
        ({"gap": 1.5, "margin": 7}, {"margin": "gap"}, 1.5),
        ({"info": {"gap": 1.5, "by": 3}}, {"margin": "info.gap"}, 1.5),
        ({"score_chosen": 8.5, "score_rejected": 6},
         {"chosen_score": "score_chosen", "rejected_score": "score_rejected"}, 2.5),
        ({"chosen-rating": 5, "rejected-rating": 5},
         {"chosen_score": "chosen-rating", "rejected_score": "rejected-rating"}, 0.0),
    ],
)  # fmt: skip
def test_a_margin_is_a_number_or_the_difference_of_two_scores(tmp_path, fields, columns, margin):
    (record,) = read(tmp_path, PAIR | fields, columns=columns).records
    assert record["margin"] == margin and type(record["margin"]) is float


def test_ranked_answers_have_the_range_of_their_scores_as_margin(tmp_path):
    answers = [{"text": "b", "score": 4}, {"text": "c", "score": 1.5}, {"text": "d", "score": 2}]
    raw = {"prompt": "a", "completions": answers}
    (record,) = read(tmp_path, raw, columns={"margin": "completions[].score"}).records
    assert (record["margin"], record["rejected"][0]["content"]) == (2.5, "c")
    with pytest.raises(ConfigError, match=r"but the answers are not ranked by it: name completions\[\]\.score"):
        read(tmp_path, raw, columns={"margin": "completions[].text"})


def test_scores_are_used_only_where_the_configuration_names_them(tmp_path):
    raw = PAIR | {"score_chosen": 9.0, "score_rejected": 2.0}
    found = read(tmp_path, raw)
    assert "margin" not in found.records[0]
    assert "score_chosen (1 of 1 records, margins if data.columns names them)" in " ".join(summary_of(found.facts))
    ignored = read(tmp_path, PAIR | {"margin": 3}, ignore=["margin"])
    assert "margin" not in ignored.records[0]


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto", "sft"])
def test_other_methods_name_margins_and_scores_as_unused(tmp_path, method):
    found = read(tmp_path, PAIR | {"margin": 3, "score_chosen": 9.0}, method=method)
    assert "margin" not in found.records[0]
    told = " ".join(summary_of(found.facts))
    assert all(f"{name} (1 of 1 records, for train.method: reward)" in told for name in ("margin", "score_chosen"))


@pytest.mark.parametrize("value", [None, "much", True, [1], "", "nan", "inf", -1, -0.5])
def test_a_wrong_margin_puts_the_record_aside(tmp_path, value):
    raw = [PAIR | {"prompt": f"a{n}", "margin": n} for n in range(12)]
    found = read(tmp_path, *raw, PAIR | {"margin": value})
    assert [record["margin"] for record in found.records] == [*map(float, range(12))]
    (aside,) = found.quarantine
    assert aside["reason"] == ("negative_margin" if value in (-1, -0.5) else "no_margin")


SCORES = {"chosen_score": "s", "rejected_score": "t"}


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ({"s": 1, "t": 2}, "negative_margin", "'s' is 1 and 't' is 2: the chosen answer has the lower score"),
        ({"s": 1}, "no_margin", "'t' is missing; it must be a number"),
        ({"s": "good", "t": 1}, "no_margin", "'s' is 'good'; it must be a number"),
    ],
)
def test_wrong_scores_put_the_record_aside(tmp_path, fields, reason, words):
    good = [PAIR | {"prompt": f"a{n}", "s": 2, "t": 1} for n in range(3)]
    found = read(tmp_path, *good, PAIR | fields, columns=SCORES)
    assert [(line["reason"], line["detail"]) for line in found.quarantine] == [(reason, words)]


@pytest.mark.parametrize(
    ("fields", "policy", "words"),
    [
        ({"margin": "much"}, {}, r"'margin' is 'much' in some records, .* write data: \{ignore: \[margin\]\}"),
        ({"margin": -2}, {"ignore": ["x"]}, r"'margin' is '-2' in some records.*\{ignore: \[x, margin\]\}"),
        ({"s": 1, "t": 0}, {"columns": {"chosen_score": "s"}}, "chosen_score is named and rejected_score is not"),
        ({"s": 1, "t": 0}, {"columns": {"margin": "s", **SCORES}}, "margin and chosen_score both give the margins"),
        ({"s": 1, "t": 0}, {"columns": SCORES, "method": "dpo"}, "for the margins of train.method: reward"),
        ({"s": 1}, {"columns": {"margin": "gap"}}, "no record of 1 source has 'gap', needed as the margin"),
    ],
)  # fmt: skip
def test_what_is_no_margin_is_one_sentence(tmp_path, fields, policy, words):
    with pytest.raises((ConfigError, DataError), match=words):
        read(tmp_path, PAIR | fields, PAIR | fields, **policy)


@pytest.mark.parametrize("scored", [True, False])
def test_margins_reach_the_rows(tmp_path, scored):
    folder, given = make_folder(tmp_path / "model"), [2.5, 0.0, 1.0]
    sides = {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "b"), ("rejected", "c d"))}
    asked = {"messages": [{"role": "user", "content": "a"}], **sides}
    records = [{"source": 0, "line": n, **asked, **({"margin": m} if scored else {})} for n, m in enumerate(given, 1)]
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    recipe = Recipe(str(folder), BUILT_IN["chatml"], True, learns_by="reward")
    for split in ("train", "eval"):
        tokenize_split(split, path, recipe, tmp_path / split, io.BytesIO())
    write_manifest(tmp_path / "manifest.json", "tokenize_records", [], {"pad_id": 0})
    (tmp_path / "rightsize.json").write_bytes(orjson.dumps({"format": 1, "max_length": 64, "model_packs": True}))
    cfg = {"tokens": {"packing": "auto", "on_too_long": "drop"}}
    places = [tmp_path / name for name in ("rightsize.json", "manifest.json", "t.arrow", "e.arrow", "packed.json")]
    pack_splits(PackingJob("", "", cfg, *places))
    rows, found = PackedRows(tmp_path / "t.arrow"), {}
    for row in range(len(rows)):
        pairs = [document.record for document in rows.documents(row)][0::2]
        assert rows.margins(row).dtype == np.float32
        found |= dict(zip(pairs, rows.margins(row).tolist(), strict=True))
    assert found == dict(enumerate(given if scored else [0.0] * 3))
    account = read_json(tmp_path / "packed.json")["splits"]["train"]
    assert (account.get("scored_pairs"), "mean_margin" in account) == ((2, True) if scored else (None, False))


def test_the_report_says_which_margins_were_trained():
    facts = facts_with()
    scores = {"edges": [0.0, 1.0, 2.0], "chosen": [1, 2], "rejected": [2, 1]}
    config = facts.run["config"] | {"train.reward.margin_weight": {"value": 0.5, "source": "config"}}
    packed = facts.pack["splits"]["train"] | {"scored_pairs": 3, "mean_margin": 1.25}
    changed = replaced(facts, evaluation=facts.evaluation | {"scores": scores}, run=facts.run | {"config": config})
    assert "Margin" not in score_chart(changed).caption
    scored = replaced(changed, pack=facts.pack | {"splits": {"train": packed}})
    words = "Margins above 0: 3 training pairs; mean of all pairs: 1.25, times train.reward.margin_weight 0.5."
    assert words in score_chart(scored).caption
