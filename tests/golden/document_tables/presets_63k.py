"""Document B: baseline, optimized and aggressive over 63,000 messages."""

from datetime import datetime

from claim import Claim, Table

from snaketune.plan.costs.budget import (
    RunInputs,
    budget_of,
    finishes_at,
    sensitivity,
    speed_up_of,
    steps_of,
    time_reduction_of,
)
from snaketune.plan.costs.calendar import moment

MESSAGES = 63_000
FRIDAY = datetime(2026, 11, 20, 18, 0)


def table() -> Table:
    """The claims of document B."""
    steps = [steps_of(MESSAGES, 1, accumulation) for accumulation in (16, 32, 64)]
    per_micro_batch = [hours * 3600 / MESSAGES for hours in (35, 14, 9)]
    run = RunInputs(rows=MESSAGES, tokens=MESSAGES, tokens_per_second=MESSAGES / (35 * 3600), accumulation=16)
    (doubled,) = sensitivity(run, {"32": {"accumulation": 32}})
    assert budget_of(run).train_hours == 35
    return Table(
        "B: baseline, optimized, aggressive",
        (
            Claim(
                "B1",
                "accumulation 16 to 32 to 64",
                "35 h to 14 h to 9 h",
                f"{doubled.hours_saved:.0f} h saved by accumulation",
                "wrong",
                f"all three run {MESSAGES:,} forward and backward passes; the hours imply"
                f" {', '.join(f'{seconds:.2f}' for seconds in per_micro_batch)} s for the same pass",
            ),
            Claim(
                "B1",
                "larger batch and rate",
                "quality 100%, no downside",
                "another training",
                "unsupported",
                "a larger effective batch takes fewer steps; only the held-out loss can tell",
            ),
            Claim(
                "B2",
                "63,000 / 16, 32, 64",
                "3,938; 1,969; 984 steps",
                f"{steps[0]:,}; {steps[1]:,}; {steps[2]:,}",
                "wrong",
                f"{MESSAGES / 64:.1f} is {steps[2]} steps when the last part of a batch is a step, as here,"
                f" and {MESSAGES // 64} when it is dropped; the first two were rounded up",
            ),
            Claim(
                "B3",
                "hours saved against 35 h",
                "21 h and 26 h",
                f"{35 - 14} h and {35 - 9} h",
                "right",
                "35 - 14, 35 - 9",
            ),
            Claim(
                "B6",
                "Friday 18:00 and 35 h",
                "Monday 05:00",
                f"{finishes_at(FRIDAY, 35):%A %H:%M} ({moment(finishes_at(FRIDAY, 35))})",
                "wrong",
                "35 h are a day and eleven hours",
            ),
            Claim(
                "B6",
                "Friday 18:00 and 14 h, 9 h",
                "Saturday 08:00, Saturday 03:00",
                f"{finishes_at(FRIDAY, 14):%A %H:%M}, {finishes_at(FRIDAY, 9):%A %H:%M}",
                "right",
                "",
            ),
            Claim(
                "B6",
                "Friday 18:00 to Sunday 17:00",
                "23 h",
                f"{(datetime(2026, 11, 22, 17) - FRIDAY).total_seconds() / 3600:.0f} h",
                "wrong",
                "two days less an hour",
            ),
            Claim(
                "B7",
                "35 h to 14 h",
                "50-60% faster",
                f"{time_reduction_of(35, 14):.0%} less time, {speed_up_of(35, 14):.1f} times as fast",
                "wrong",
                "less time and faster are two numbers",
            ),
        ),
    )
