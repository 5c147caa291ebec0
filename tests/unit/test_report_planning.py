"""Plan against actual in the report: each number beside its counterpart, and nothing made up."""

import re

from report_case import facts_with

from snaketune.report.compare.comparison import compared_dollars
from snaketune.report.plan.plan_compared import planning
from snaketune.report.run.page import render_run


def rows(**changes):
    found = planning(facts_with(**changes))
    assert found is not None
    return {row.label: row for row in found.rows}


def test_every_planned_number_meets_its_measured_counterpart():
    found = rows()
    assert (found["Tokens"].planned, found["Tokens"].actual) == ("182,571", "182,625")
    assert (found["Optimizer steps"].planned, found["Optimizer steps"].difference) == ("250", "equal")
    rate = found["Real tokens per second of one device"]
    assert (rate.planned, rate.origin, rate.band) == ("12,000", "measured before", "10,200 to 13,800")
    assert rate.actual == "11,283"  # 182,625 tokens in 15.863 + 0.323 s
    assert rate.difference == "\u22126.0%"
    assert found["Peak memory of one device"].actual == "565.5 MB"
    assert found["Cost of computing"].actual == "$0.00262"  # 18.9 s at $0.50 per hour


def test_the_peak_of_a_gpu_counts_what_the_plan_counts_the_context_besides_tensors():
    info = facts_with().info | {"peak_memory": {"gpu_bytes": 76_400_000, "resident_bytes": 1_965_000_000}}
    found = rows(info=info, plan=facts_with().plan | {"memory_gb": 0.8765})["Peak memory of one device"]
    assert (found.planned, found.actual, found.difference) == ("876.5 MB", "876.4 MB", "\u22120.011%")


def test_a_resumed_run_has_no_time_of_its_own():
    info = facts_with().info | {"resumed_from_step": 100}
    found = rows(info=info)
    assert found["Training"].actual == found["Cost of computing"].actual == "not measured"
    assert found["Training"].difference == ""


def test_what_was_unknown_before_is_shown_as_unknown():
    plan = facts_with().plan
    unknown = {"origin": "unknown", "low": None, "high": None, "source": "nobody knows", "unit": "h"}
    plan |= {"train_hours": None, "about": plan["about"] | {"train_hours": unknown}}
    row = rows(plan=plan)["Training"]
    assert (row.planned, row.origin, row.band) == ("unknown", "", "")
    assert row.actual != "not measured"


def test_a_run_planned_for_another_device_is_not_given_a_cost():
    plan = facts_with().plan
    plan |= {"device": plan["device"] | {"is_here": False}}
    assert rows(plan=plan)["Cost of computing"].actual == "not measured"


def test_costs_of_others_are_given_or_unknown_and_advice_has_reasons():
    found = planning(facts_with())
    assert ("labelling", "$400.00", "given in the configuration") in found.costs
    assert ("storage", "unknown", "unknown") in found.costs
    assert all(reason for _, _, reason in found.advice)
    assert len(found.fit) == 3


def test_only_the_marked_block_depends_on_plan_and_machine():
    block = re.compile("<!-- measured:.*?<!-- end of measured -->", re.DOTALL)
    pages = [render_run(facts) for facts in (facts_with(), facts_with(plan=None, info=None))]
    assert pages[0] != pages[1]
    assert block.sub("", pages[0]) == block.sub("", pages[1])
    assert "This run was not planned" in pages[1]


def test_dollars_keep_what_matters():
    assert [compared_dollars(value) for value in (None, 0.0, 0.00262, 12.5, 26_440)] == [
        "unknown",
        "$0.00",
        "$0.00262",
        "$12.50",
        "$26,440.00",
    ]
