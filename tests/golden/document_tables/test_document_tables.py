"""Every table of the source documents, computed by the product: the page is the golden file.

After a wanted change, write it anew and read the difference:
``python tests/golden/document_tables/test_document_tables.py``.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PAGE = ROOT / "docs" / "claims-checked.md"
sys.path[:0] = [str(HERE), str(ROOT / "tests" / "unit")]


def tables():
    import h100_decision
    import phase_1c
    import presets_34b_13b
    import presets_63k

    found = [presets_34b_13b.table(), presets_63k.table(), phase_1c.table()]
    return [*found, h100_decision.documents_d(), h100_decision.documents_e()]


@pytest.fixture(scope="module")
def found():
    return tables()


def row(found, place: str, topic: str):
    return next(one for table in found for one in table.claims if one.place == place and topic in one.topic)


def test_the_page_is_what_the_functions_say(found):
    from claim import page

    assert page(found) == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "topic", "right"),
    [
        ("A8", "electricity", "$0.675"),
        ("A9", "timelines", "26.4-33.4 h and 9.25-11.25 h"),
        ("A14", "speed-up", "62.4 times"),
        ("A16", "break-even", "101.5 runs against $20, 50.4 against $40, 16.7 against $120"),
        ("B1", "accumulation", "0 h saved by accumulation"),
        ("B2", "63,000", "3,938; 1,969; 985"),
        ("B6", "35 h", "Sunday 05:00 (Sun 05:00)"),
        ("B6", "Sunday 17:00", "47 h"),
        ("B7", "14 h", "60% less time, 2.5 times as fast"),
        ("C1", "3,558", "47 minutes"),
        ("C2", "47 h", "11.8-19.6 h"),
        ("C2", "samples", "1.2-2.0 times"),
        ("C6", "1.25", "8.1 times"),
        ("C7", "9,488", "3,558"),
        ("D1", "38 h", "$95"),
        ("D2", "20 h", "$100, $96"),
        ("D2", "optimised", "$55 against $55 in 11 h"),
        ("D4", "every 1,000", "28 saves are 2.5%"),
        ("D4", "every 2,000", "28 minutes, 1.2%"),
        ("D5", "parts", "48%-66% together; 38 h to 20-24 h is 37%-47%"),
        ("E4", "hours", "2.78 h"),
        ("E7", "13B", "208 GB"),
    ],
)
def test_what_is_right(found, place, topic, right):
    assert row(found, place, topic).right == right


def test_every_document_is_there_and_every_wrong_claim_has_a_reason(found):
    places = {one.place[0] for table in found for one in table.claims}
    assert places == set("ABCDE")
    assert all(one.why for table in found for one in table.claims if one.verdict == "unsupported")
    assert {one.verdict for table in found for one in table.claims} == {"right", "wrong", "unsupported"}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
    from claim import page

    PAGE.write_text(page(tables()), encoding="utf-8")
