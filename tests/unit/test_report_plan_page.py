"""The page of a plan: every number with where it comes from, the schedule in a week, safe against its own data."""

import copy
import re

import pytest
from report_case import FOLDER
from test_report_page import HOSTILE, Page

from snaketune.facts.plan_facts import PLAN
from snaketune.facts.plan_table_facts import FitCell
from snaketune.facts.shapes import shaped
from snaketune.report.plan.plan_figures import plan_figures
from snaketune.report.plan.plan_page import plan_headline, render_plan, tone, weekday_of_end
from snaketune.report.plan.plan_tables import fit_cell, fit_rows

MEASURED = re.compile("<!-- measured:.*?<!-- end of measured -->", re.DOTALL)


@pytest.fixture
def plan():
    return PLAN.read(FOLDER / "plan.json")


def page_of(plan):
    return Page(render_plan(plan, "one", "lora-1"))


def unknown(plan):
    """The plan before anything was measured."""
    nothing = {"origin": "unknown", "low": None, "high": None, "source": "no run measured it", "unit": "h"}
    names = ("train_hours", "hours", "cost_usd", "total_usd", "finishes_at")
    plan = copy.deepcopy(plan) | dict.fromkeys(names)
    plan["about"] |= dict.fromkeys(names, nothing)
    plan["rate"] |= {**nothing, "tokens_per_second": None}
    for name in ("checkpoint_hours", "checkpoint_share", "evaluation_hours", "start_hours", "saves"):
        plan["overheads"][name] = None
    plan["answers"] |= {"seconds": None, "cost_usd": None, "origin": "unknown"}
    plan["afterwards"] = [row | {"seconds": None} for row in plan["afterwards"]]
    plan["presets"] = [row | {"train_hours": None, "cost_usd": None, "time_ratio": 1.5} for row in plan["presets"]]
    return plan


@pytest.mark.parametrize(
    ("start", "duration", "end"),
    [
        (4 * 24 + 18, 13 + 40 / 60, "Saturday 7:40"),
        (4 * 24 + 18, 35, "Sunday 5:00"),  # which a well-known guide gives as Monday 5:00
        (18, 5.5, "Monday 23:30"),
        (9, 24 * 7, "Monday 9:00, 1 week later"),
        (5 * 24 + 9, 24 * 15, "Sunday 9:00, 2 weeks later"),
    ],
)
def test_a_start_in_the_week_gives_the_day_and_time_of_the_end(start, duration, end):
    assert weekday_of_end(start, duration) == end


def test_every_number_has_its_origin_and_its_band(plan):
    found = {figure.label: figure for figure in plan_figures(plan)}
    assert (found["Tokens"].value, found["Tokens"].origin) == ("182,571", "counted")
    assert (found["Throughput of one device"].value, found["Throughput of one device"].origin) == (
        "12,000 tokens/s",
        "measured",
    )
    assert found["Throughput of one device"].band == "10,200 tokens/s to 13,800 tokens/s"
    assert found["Disk"].origin == "estimated"
    assert all(figure.source for figure in found.values())


def test_what_is_unknown_is_said_to_be_and_how_it_becomes_known(plan):
    page = page_of(unknown(plan) | {"measure": "snakemake --cores all plan --config 'plan={probe: true}'"})
    assert "The duration is not known yet" in page.text
    assert "become known with one measurement" in page.text
    assert "snakemake --cores all plan --config 'plan={probe: true}'" in page.text
    assert "The end is unknown until the throughput is known." in page.text
    (row,) = [figure for figure in plan_figures(unknown(plan)) if figure.origin == "unknown"]
    assert row.label.endswith("1,000 answers of the tuned model")
    assert row.label.startswith("Throughput of one device, training, from start to end, cost of computing")
    assert page.text.count("unknown") < 12, "unknown rows are one row"


def test_a_run_that_does_not_fit_has_a_page_that_says_what_does(plan):
    stops = ["plan.gpu: a card has 24.0 GB and this run needs 29.5 GB (estimated): set model.quantization to 8bit."]
    remedy = {"changes": {"model.quantization": "8bit", "train.gradient_checkpointing": True}, "needs_gb": 20.0}
    red = plan | {"stops": stops, "remedy": remedy}
    assert tone(red) == "worse"
    assert plan_headline(red).endswith(
        "this does: model.quantization: 8bit, train.gradient_checkpointing: true (20.0 GB)"
    )
    page = page_of(red | {"ownership": {"fits": False, "is_short": False}})
    assert stops[0] in page.text
    assert "is neither rented nor bought for it" in page.text


def test_neighbours_of_which_the_same_is_true_are_one_row(plan):
    cell = {"verdict": "fits", "needs_gb": 0.8, "origin": "estimated"}
    rows = [
        {"title": id, "id": id, "memory_gb": size, "methods": {"lora": cell}} for id, size in (("A", 24), ("B", 80))
    ]
    (row,) = fit_rows(PLAN.parse(plan | {"fit": rows}, "plan.json"))
    assert (row["title"], row["memory"]) == ("A to B, 2 GPUs", "24.0 GB to 80.0 GB")


def test_planned_memory_has_the_least_beside_it():
    cell = {"verdict": "fits", "needs_gb": 21.0, "origin": "estimated", "least_gb": 12.0, "train_hours": 2.0}
    assert fit_cell(shaped(cell, FitCell), 24)[1].startswith("21.0 GB (at least 12.0 GB), 2.00 h")


def test_a_limit_that_is_exceeded_stands_at_the_top(plan):
    assert tone(plan) == "better"
    over = plan | {"limits": {"max_hours": plan["hours"] / 2, "max_cost_usd": None}}
    assert tone(over) == "worse"
    text = page_of(over).text
    assert "more than it may" in text
    assert "Exceeded plan.max_hours is" in text


def test_a_gpu_says_with_what_setting_it_fits_or_why_not():
    cell = {"verdict": "fits", "needs_gb": 20.0, "origin": "estimated", "train_hours": 2.0, "cost_usd": 5.0, "with": {}}
    assert fit_cell(shaped(cell, FitCell), 24) == ("fits", "20.0 GB, 2.00 h, $5.00")
    changed = cell | {"with": {"train.gradient_checkpointing": True, "train.per_device_train_batch_size": 1}}
    assert fit_cell(shaped(changed, FitCell), 24)[1].endswith("layers recomputed, micro-batch: 1")
    assert fit_cell(shaped(cell | {"verdict": "no", "needs_gb": 30.0}, FitCell), 24) == (
        "does not fit",
        "needs 30.0 GB of 24.0 GB at least",
    )


def test_all_parts_of_the_plan_are_there(plan):
    page = page_of(plan)
    for words in (
        "When will it finish?",
        "Friday 18:00",
        "Costs of a run",
        "Rent or buy",
        "Where does it fit?",
        "What would change the plan?",
        "Time reduction",
        "What to choose?",
        "because",
        "What is it based on?",
        "Price of an hour",
    ):
        assert words in page.text


def test_only_the_marked_blocks_depend_on_machine_runs_and_clock(plan):
    later = copy.deepcopy(plan) | {
        "planned_at": "2027-01-01T09:00:00+00:00",
        "finishes_at": "2027-01-01T10:00:00+00:00",
    }
    later["disk"]["free"] = 1.0
    pages = [MEASURED.sub("", render_plan(each, "one", "lora-1")) for each in (plan, later, unknown(plan))]
    assert pages[0] == pages[1] == pages[2]
    assert render_plan(plan, "one", "lora-1") != render_plan(later, "one", "lora-1")


def test_hostile_facts_add_no_element_and_no_handler(plan):
    plan = copy.deepcopy(plan)
    plan["device"] |= {"title": HOSTILE, "price_source": HOSTILE}
    plan["rate"]["source"] = HOSTILE
    plan["costs"].append({"name": HOSTILE, "usd": 1.0, "origin": "given"})
    plan["advice"].append({"topic": HOSTILE, "choice": HOSTILE, "reason": HOSTILE})
    plan["notes"].append(HOSTILE)
    plan["fit"][0]["title"] = HOSTILE
    text = render_plan(plan, HOSTILE, HOSTILE)
    page = Page(text)
    assert "alert(1)" in page.text
    assert not {"img", "link"} & set(page.elements)
    assert "script" not in page.elements  # a plan has no chart and needs no script at all
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not set("\x1b\x00\u202e") & set(text)


def test_nothing_is_loaded_and_equal_plans_give_equal_bytes(plan):
    page = page_of(plan)
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert all(link.startswith("#") for link in links)
    assert render_plan(plan, "one", "lora-1") == render_plan(plan, "one", "lora-1")
