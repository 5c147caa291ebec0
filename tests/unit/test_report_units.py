import pytest

from snaketune.report import units


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.523871, 3, "1.52"),
        (0.011846, 3, "0.0118"),
        (0.00999999, 3, "0.0100"),
        (12345.6, 3, "12,346"),
        (0.0, 3, "0"),
        (3.14e-8, 3, "3.14e-8"),
        (-2.5e12, 2, "\u22122.5e12"),
        (float("inf"), 3, "not finite"),
        (None, 3, "not measured"),
    ],
)
def test_significant_digits(value, digits, text):
    assert units.significant(value, digits) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0, "0.0%"), (1, "100.0%"), (0.99996, ">99.9%"), (0.00001, "<0.1%"), (0.991, "99.1%"), (None, "not measured")],
)
def test_percent_never_rounds_to_all_or_nothing(fraction, text):
    assert units.percent(fraction) == text


def test_counts_have_thousands_separators_and_a_noun_in_the_right_number():
    assert units.count(61204, "token") == "61,204 tokens"
    assert units.count(1, "record") == "1 record"
    assert units.count(0, "entry") == "0 entries"
    assert units.count(None, "token") == "not measured"


def test_differences_are_signed_with_a_true_minus():
    assert units.points(-0.184) == "\u221218.4 points"
    assert units.points(0.9) == "+90.0 points"
    assert units.points(0.00001) == "0.0 points"
    assert units.signed(-1.512) == "\u22121.51"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (36512, "36.5 kB"),
        (10**6, "1.0 MB"),
        (7 * 10**15, "7,000.0 TB"),
    ],
)
def test_file_sizes(size, text):
    assert units.file_size(size) == text


def test_share_of_nothing_is_unknown():
    assert units.share(3, 0) == "not measured"
    assert units.share(0, 7) == "0.0%"
