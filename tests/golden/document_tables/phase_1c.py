"""Document C: one training on an H100 before and after."""

from claim import Claim, Table
from plan_models import LLAMA_2_7B

from snaketune.plan.costs.budget import hours_of, steps_of
from snaketune.plan.devices.hardware import find_hardware
from snaketune.plan.flops import hardware_flops, shape_of

STEPS = 3558
FACTORS = (1.25, 2.5, 1.8, 1.2, 1.2)


def recomputation(full: bool) -> float:
    """How many more operations recomputing all layers takes, for documents of 1,000 tokens."""
    shape = shape_of(LLAMA_2_7B)
    kept, again = (hardware_flops(shape, 1000, 1000**2, 0, full, every) for every in (0, 1))
    return again / kept - 1


def table() -> Table:
    """The claims of document C."""
    minutes = hours_of(STEPS, 1.25) * 60
    product = 1.0
    for factor in FACTORS:
        product *= factor
    tflops = find_hardware("h100-sxm").tflops
    return Table(
        "C: before and after on one H100",
        (
            Claim(
                "C1",
                "3,558 steps at 1.25 a second",
                "47 h",
                f"{minutes:.0f} minutes",
                "wrong",
                f"47 h are {47 * 3600 * 1.25:,.0f} steps; the price of $117-140 is that of 47 hours",
            ),
            Claim(
                "C2",
                "47 h at 2.4 to 4 times the steps a second",
                "5-8 h",
                f"{47 / 4:.1f}-{47 / 2.4:.1f} h",
                "wrong",
                "hours over speed-up",
            ),
            Claim(
                "C2",
                "1.25 to 3-5 steps a second, 16 to 8 samples in each",
                "2.4-4 times",
                f"{3 * 8 / (1.25 * 16):.1f}-{5 * 8 / (1.25 * 16):.1f} times",
                "wrong",
                "steps of half the size: only samples or tokens per second can be compared",
            ),
            Claim(
                "C3",
                "TF32 with bf16 weights",
                "8 times",
                "1 time",
                "wrong",
                f"products of bf16 values do not use TF32; its peak is half that of bf16 ({tflops['bf16']:g} TFLOP/s)",
            ),
            Claim(
                "C4",
                "gradient checkpointing",
                "faster",
                f"{recomputation(False):+.0%} operations for LoRA, {recomputation(True):+.0%} for all weights",
                "wrong",
                "it saves memory; a larger batch has to earn that back",
            ),
            Claim(
                "C5",
                "2048 and 1536 for records up to 1481",
                "25% and 3.5% wasted",
                f"{(2048 - 1481) / 2048:.1%} and {(1536 - 1481) / 1536:.1%} of the padded row",
                "wrong",
                f"of the data it is {(2048 - 1481) / 1481:.1%} and {(1536 - 1481) / 1481:.1%}; with rows padded to the"
                f" end the gain is {2048 / 1536:.2f} times, with packed rows none",
            ),
            Claim(
                "C6",
                "1.25 x 2.5 x 1.8 x 1.2 x 1.2",
                "8.1 times in theory, 3-5 in practice",
                f"{product:.1f} times",
                "unsupported",
                "the product is right, the factors are asserted",
            ),
            Claim(
                "C7",
                "steps of 9,488 rows, batch 2 x 4, 3 epochs",
                "3,558",
                f"{steps_of(9488, 2, 4, epochs=3):,}",
                "right",
                "1,186 steps an epoch",
            ),
        ),
    )
