"""The page of an ablation: every number with its meaning, nothing made up, safe against its own data."""

from itertools import pairwise

import pytest
from ablate_case import Machine, facts
from test_facts import WRONG, places, with_part
from test_report_page import HOSTILE, Page

from snaketune.core.errors import DataError
from snaketune.facts.ablation_facts import ABLATION
from snaketune.report.ablation.ablate_page import change_of_loss, render_ablation, row_of
from snaketune.report.ablation.waterfall import FAST_WAY, OVERLAP, SLOW, bars, scale_of, waterfall
from snaketune.report.charts.svg import drawn


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return facts(tmp_path_factory.mktemp("ablation"))


def page_of(found):
    return Page(render_ablation(found, "one", "lora-1"))


def test_the_waterfall_goes_from_one_end_to_the_other_as_measured(measured):
    found, whole = bars(measured), measured["combined"]
    assert [found[0].label, found[-2].label, found[-1].label] == [SLOW, OVERLAP, FAST_WAY]
    assert (found[0].end, found[-1].end) == (whole["seconds_slow"], whole["seconds_fast"])
    for before, after in pairwise(found[1:-1]):
        assert after.start == before.end
    assert found[-2].start == pytest.approx(whole["seconds_slow"] / whole["product_of_parts"])
    assert found[-2].end == whole["seconds_fast"]


def test_the_chart_says_the_same_as_its_table(measured):
    chart = waterfall(measured)
    assert [span.name for span in chart.plot.spans] == [row[0] for row in chart.rows]
    assert len(chart.rows) == len(bars(measured)) == drawn(chart.plot).count("<rect")


@pytest.mark.parametrize(("seconds", "unit"), [(90, "s"), (600, "min"), (90_000, "h"), (0.1, "s")])
def test_the_axis_has_a_fitting_unit(seconds, unit):
    assert scale_of(seconds)[1] == unit


def test_reduction_and_speed_up_are_columns_of_their_own(measured):
    page = page_of(measured)
    for words in ("Speed-up", "Time reduction", "By arithmetic", "Saved per epoch", "Held-out loss", "Peak memory"):
        assert words in page.text
    row = next(row for row in measured["effects"] if row["factor"] == "packing" and row["where"] == "baseline")
    shown = row_of(measured, row)
    assert shown.speed_up.endswith(" x")
    assert shown.reduction.endswith("%")
    assert shown.predicted.endswith(" x")
    assert shown.usd.startswith("$")


def test_the_whole_stands_next_to_the_product_with_the_reason(measured):
    page = page_of(measured)
    assert "Measured together" in page.text
    assert "Product of the parts" in page.text
    assert measured["combined"]["sentence"] in page.text


def test_what_cannot_be_measured_here_is_listed_with_its_reason(measured):
    text = page_of(measured).text
    assert "TF32: TF32 is a dtype of NVIDIA GPUs from Ampere on; this is a CPU." in text
    assert "Copy on a fast disk: the built-in data are generated" in text


def test_a_case_that_failed_says_why_and_has_no_numbers(tmp_path):
    found = facts(tmp_path, machine=Machine(refused=("quantization-off",)))
    row = next(row for row in found["effects"] if row["factor"] == "quantization")
    assert row_of(found, row).speed_up == ""
    assert "no memory for beside-quantization-off" in page_of(found).text


def test_without_one_end_there_is_no_waterfall(tmp_path):
    found = facts(tmp_path, machine=Machine(refused=("baseline", "pilot")))
    assert waterfall(found) is None
    page = page_of(found)
    assert "The two configurations could not both be measured on this machine" in page.text
    assert "figure" not in page.elements


def test_unknown_prices_are_unknown(tmp_path):
    found = facts(tmp_path, price_per_hour=None)
    text = page_of(found).text
    assert "unknown dollars" in text
    assert "give plan.price_per_gpu_hour" in text
    assert "$" not in text


def test_a_busy_machine_is_told_of(measured):
    assert "Other programs used the processor" not in page_of(measured).text
    ends = {**measured["ends"], "fast": measured["ends"]["fast"] | {"waited_share": 0.4}}
    assert "Other programs used the processor up to 40.0% of the time." in page_of({**measured, "ends": ends}).text


def test_hostile_facts_add_no_element_and_no_handler(measured):
    reasons = [{"factor": "tf32", "title": HOSTILE, "reason": HOSTILE}]
    machine = measured["machine"] | {"device": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    effects = [{**row, "off_words": HOSTILE, "on_words": HOSTILE} for row in measured["effects"]]
    effects += [{"factor": "tf32", "where": "beside", "off_words": "", "on_words": "", "failed": HOSTILE}]
    hostile = {**measured, "machine": machine, "effects": effects, "not_measured": reasons}
    hostile |= {"titles": {name: HOSTILE + name for name in measured["titles"]}}
    text = render_ablation(hostile, HOSTILE, HOSTILE)
    page = Page(text)
    assert "alert(1)" in page.text
    assert "img" not in page.elements
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not any("<script>alert" in content for _, _, content in page.inline)
    assert not set("\x1b\x00\u202e") & set(text)


def test_nothing_is_loaded_and_equal_facts_give_equal_bytes(measured):
    page = page_of(measured)
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert all(link.startswith("#") for link in links)
    one, two = (render_ablation(measured, "one", "lora-1") for _ in range(2))
    assert one == two
    outside = one[: one.index("<!-- measured:")] + one[one.index("<!-- end of measured -->") :]
    assert "tokens/s" not in outside.lower().split("</style>")[1]


@pytest.mark.parametrize(
    ("bounds", "words"),
    [((0.0, 0.0), "unchanged"), ((-2.7e-9, 2.1e-9), "unchanged"), ((-0.01, 0.02), "+0.0050 (\u22120.010 to +0.020)")],
)
def test_a_loss_that_only_rounds_otherwise_is_unchanged(bounds, words):
    low, high = bounds
    assert change_of_loss({"loss_change": (low + high) / 2, "loss_change_low": low, "loss_change_high": high}) == words


def test_facts_are_written_with_a_format_and_read_without_one(measured, tmp_path):
    ABLATION.write(tmp_path / "ablate.json", measured)
    read = ABLATION.read(tmp_path / "ablate.json")
    assert read["format"] == 1
    older = {name: value for name, value in read.items() if name != "format"}
    pages = [render_ablation(ABLATION.parse(each, "a.json"), "one", "lora-1") for each in (read, older)]
    assert pages[0] == pages[1] == render_ablation(older, "one", "lora-1")
    with pytest.raises(DataError, match="its format is 2, and this version reads formats up to 1"):
        ABLATION.parse({**measured, "format": 2}, "ablate.json")


def test_any_wrong_part_is_shown_or_refused_in_one_sentence(measured):
    refused = shown = 0
    for number, path in enumerate([*places(measured)][::29]):
        try:
            shown += len(
                render_ablation(ABLATION.parse(with_part(measured, path, WRONG[number % 6]), "a.json"), "a", "b")
            )
        except DataError as error:
            refused += 1
            assert str(error).startswith("a.json: ") and "delete it and run the same command" in str(error)
            assert "\n" not in str(error) and len(str(error)) < 300
    assert refused > 10 and shown
