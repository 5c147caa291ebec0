"""facts.json: one row per fact, readable in one line, with what is volatile at its end."""

import orjson
import pytest
from report_case import facts_with, replaced

from snaketune.report.run.table import fact_table, table_bytes

COLUMNS = ["run", "id", "name", "value", "unit", "origin", "volatile"]
ORIGINS = ["identity", "counted", "evaluated", "configured", "planned", "measured"]


def values(**changes):
    return {row["name"]: row["value"] for row in fact_table(facts_with(**changes))}


def test_every_row_has_the_same_columns_a_flat_value_and_a_name_of_its_own():
    rows = orjson.loads(table_bytes(fact_table(facts_with())))
    assert all(list(row) == COLUMNS for row in rows)
    assert not [row for row in rows if isinstance(row["value"], list | dict) or row["value"] is None]
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names))
    assert [origin for origin in ORIGINS if origin in {row["origin"] for row in rows}] == ORIGINS


def test_what_the_page_says_is_in_the_table():
    facts, found = facts_with(), values()
    assert found["evaluation.tuned.loss"] == facts.evaluation["tuned"]["loss"]
    assert found["training.steps"] == facts.adapter["steps"]
    assert found["data.lines"] == sum(source["lines"] for source in facts.reading["sources"])
    assert found["fingerprint"] == facts.run["fingerprint"]
    assert found["config.train.seed"] == facts.run["config"]["train.seed"]["value"]
    assert found["measured.seconds.compute"] == facts.info["seconds"]["compute"]


def test_volatile_rows_come_last_and_the_others_do_not_depend_on_the_machine():
    facts = facts_with()
    one = fact_table(facts)
    other = fact_table(replaced(facts, info={"machine": {"host": "else"}}, plan=None, rates={}))
    flags = [row["volatile"] for row in one]
    assert flags == sorted(flags)
    assert True in flags
    assert [row for row in one if not row["volatile"]] == [row for row in other if not row["volatile"]]


def test_one_line_of_pandas_reads_it(tmp_path):
    pandas = pytest.importorskip("pandas")
    (tmp_path / "facts.json").write_bytes(table_bytes(fact_table(facts_with())))
    facts = pandas.read_json(tmp_path / "facts.json").set_index("name")["value"]
    assert facts["evaluation.tuned.loss"] == pytest.approx(facts_with().evaluation["tuned"]["loss"])
    assert isinstance(facts["digests.data"], str)
