"""Significance of differences: McNemar's exact test and Wilson's interval, without a dependency."""

import math


def sign_test(gains: int, losses: int) -> float:
    """Return the two-sided p value of McNemar's exact test, whose null hypothesis is that both are equally likely.

    Source: McNemar (1947), Psychometrika 12; exact form with the binomial distribution.
    """
    changed = gains + losses
    if changed == 0:
        return 1.0
    # Binomial coefficients as integers, each from the one before: exact for any count, where floats would overflow.
    term, tail = 1, 1
    for k in range(min(gains, losses)):
        term = term * (changed - k) // (k + 1)
        tail += term
    found: float = min(1.0, 2 * tail / 2**changed)
    return found


def interval(fraction: float, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a fraction measured on ``n`` cases.

    Facts are checked for types, not for ranges: numbers that no measurement gives are taken for the nearest that one
    does, and the page shows them as they are.

    Source: Wilson (1927), JASA 22.
    """
    # Not fraction ± z·se (Wald): that has zero width at 0% and 100%, and covers too little for few cases.
    fraction, n = min(max(fraction, 0.0), 1.0), max(n, 1)
    z = 1.959964
    centre = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
