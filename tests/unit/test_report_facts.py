import shutil

import orjson
import pyarrow as pa
import pytest
from report_case import FOLDER, fact_paths, facts_with

from snaketune.core.errors import DataError
from snaketune.data.tokens.token_store import TOKENS_SCHEMA, writing_tokens
from snaketune.report.report_facts import load_facts
from snaketune.report.run.findings import findings
from snaketune.report.run.funnel import balances, funnel
from snaketune.report.run.reproducing import config_file, settings_of_run, sources
from snaketune.report.run.too_long import find_too_long


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "facts")
    return tmp_path / "facts"


def test_a_missing_fact_file_is_named(folder):
    (folder / "rightsize.json").unlink()
    with pytest.raises(DataError, match=r"rightsize\.json does not exist"):
        load_facts(fact_paths(folder))


def test_a_damaged_line_is_named_with_its_number(folder):
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 260, "loss"\n')
    number = len((folder / "metrics.jsonl").read_bytes().splitlines())
    with pytest.raises(DataError, match=rf"metrics\.jsonl, line {number}, is not JSON"):
        load_facts(fact_paths(folder))


def test_measured_rates_decide_no_curve(folder):
    before = load_facts(fact_paths(folder))
    lines = [orjson.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    changed = [{**line, "tokens_per_second": 1.0, "mfu": 0.5} for line in lines]
    (folder / "metrics.jsonl").write_bytes(b"\n".join(map(orjson.dumps, changed)))
    after = load_facts(fact_paths(folder))
    assert after.curves == before.curves
    assert {step: known.tokens for step, known in after.progress.items()} == {
        step: known.tokens for step, known in before.progress.items()
    }
    assert after.rates != before.rates


def test_every_reason_has_an_example_even_behind_thousands_of_another(folder):
    many = [{"path": "a.jsonl", "line": n, "reason": "not_json", "detail": "", "raw": "x"} for n in range(3000)]
    rare = {"path": "a.jsonl", "line": 9999, "reason": "too_deep", "detail": "", "raw": "y"}
    (folder / "quarantine.jsonl").write_bytes(b"\n".join(map(orjson.dumps, [*many, rare])))
    shown = load_facts(fact_paths(folder)).quarantine
    assert [line.reason for line in shown] == ["not_json"] * 3 + ["too_deep"]


def test_missing_values_become_gaps_and_a_warning(folder):
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 260, "loss": null, "learning_rate": 0.0, "grad_norm": null}\n')
    facts = load_facts(fact_paths(folder))
    assert facts.curves["loss"].gaps == 1
    assert any(finding.sentence == "1 logged step had no finite training loss." for finding in findings(facts))


def test_the_funnel_of_the_golden_run_balances():
    facts = facts_with()
    assert all(balance.gap == 0 for balance in balances(facts))
    assert [(step.label, step.number) for step in funnel(facts)][:2] == [
        ("Lines in the sources", "4,412"),
        ("quarantined: a field is missing", "\u22122"),
    ]


@pytest.mark.parametrize(
    ("name", "change", "place"),
    [
        ("dedupe", {"kept": 4317}, "deduplication"),
        ("split", {"eval": 192}, "splitting"),
        ("reading", {"quarantined": 4}, "reading"),
    ],
)
def test_lost_records_are_noticed(name, change, place):
    facts = facts_with(**{name: {**getattr(facts_with(), name), **change}})
    warnings = [finding.sentence for finding in findings(facts) if finding.level == "warning"]
    assert any(f"before and after {place} differ by" in sentence for sentence in warnings)
    assert not any("accounted for" in finding.sentence for finding in findings(facts))


def test_unknown_counts_claim_nothing():
    assert not any("accounted for" in finding.sentence for finding in findings(facts_with(split={})))


def test_overfitting_is_told_from_the_held_out_curve():
    curves = dict(facts_with().curves)
    curves["eval_loss"] = type(curves["loss"])(((50, 0.5), (100, 0.2), (150, 0.4)))
    sentences = [finding.sentence for finding in findings(facts_with(curves=curves))]
    assert any("lowest at step 100 (0.200) and ended at 0.400" in sentence for sentence in sentences)


def test_models_measured_on_different_data_are_told():
    evaluation = {"base": {"loss": 1.0, "n": 10}, "tuned": {"loss": 0.5, "n": 9}}
    sentences = [finding.sentence for finding in findings(facts_with(evaluation=evaluation))]
    assert any("not evaluated on the same data" in sentence for sentence in sentences)


def test_settings_that_differ_come_first_and_each_has_its_origin():
    changed, same = settings_of_run(facts_with(), changed=True), settings_of_run(facts_with(), changed=False)
    assert {setting.origin for setting in same} == {"default"}
    assert "default" not in {setting.origin for setting in changed}
    assert next(setting for setting in changed if setting.key == "train.learning_rate").origin == "--config"


def test_a_source_is_called_as_the_configuration_calls_it():
    run = facts_with().run
    entries = [{**run["sources"][0], "options": options} for options in ({}, {"name": "sums", "weight": 0.5})]
    plain, named = (source.path for source in sources(facts_with(run={**run, "sources": entries})))
    assert named == f"sums: {plain} (weight 0.5)"
    limited = [{**run["sources"][0], "options": {"max_records": 1000}}]
    assert sources(facts_with(run={**run, "sources": limited}))[0].path == f"{plain} (at most 1,000 records)"


def test_the_printed_configuration_resolves_to_the_changed_values():
    from snaketune.config.strict_yaml import parse_yaml

    values = parse_yaml(config_file(facts_with()), "report")
    assert values["train"]["learning_rate"] == 0.005
    assert values["data"]["sources"] == ["builtin:quickstart", "data/extra.jsonl"]
    assert values["model"]["tiny"] == {"hidden_size": 128, "vocab_size": 1024}
    assert list(values["runs"]) == ["quickstart"]


def test_the_longest_of_what_is_too_long_is_shown_with_its_place(tmp_path):
    lengths = [5, 900, 20, 700, 800, 600]
    rows = [{"source": 0, "line": 10 + n, "text": f"document {n} " * 200} for n in range(len(lengths))]
    (tmp_path / "train.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    columns = [[[1] * n for n in lengths], [[True] * n for n in lengths], lengths, lengths, range(6)]
    columns += [[0] * 6, [0] * 6, [False] * 6, [1] * 6]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, TOKENS_SCHEMA, strict=True)]
    with writing_tokens(tmp_path / "train") as writer:
        writer.write_batch(pa.record_batch(arrays, schema=TOKENS_SCHEMA))
    found = find_too_long(tmp_path / "train", tmp_path / "train.jsonl", 500)
    assert [(one.tokens, one.place) for one in found] == [(900, (0, 11)), (800, (0, 14)), (700, (0, 13))]
    assert found[0].text.text.startswith("document 1 ")
    assert len(found[0].text.text) == 400
    assert find_too_long(tmp_path / "train", tmp_path / "train.jsonl", 900) == ()
