"""Document A: an original 34B preset against an optimised 13B one."""

from dataclasses import replace
from math import log

from claim import Claim, Table
from plan_models import LLAMA_2_13B, YI_34B

from snaketune.plan.advice.fit_table import fits_in
from snaketune.plan.costs.budget import annual_usd, break_even_runs, electricity_usd, speed_up_of, time_reduction_of
from snaketune.plan.devices.hardware import find_hardware
from snaketune.plan.flops import model_flops, shape_of
from snaketune.plan.memory.memory import adapter_parameters, memory_plan
from snaketune.plan.memory_settings import AdapterSetting, MemorySetting

ORIGINAL = MemorySetting(1024, 1, AdapterSetting(64), quantization="4bit", chunked_loss=False)
OPTIMIZED = MemorySetting(512, 2, AdapterSetting(32), quantization="8bit", chunked_loss=False)
ON_QUERIES = AdapterSetting(64, ("q_proj", "v_proj"))


def memory(config, setting: MemorySetting) -> str:
    """The planned peak with all layers recomputed and with none."""
    every, none = (memory_plan(config, replace(setting, checkpoint_every=level)).total for level in (1, 0))
    return f"{every:.0f} GB with recomputation, {none:.0f} GB without"


def weights(quantization) -> float:
    return memory_plan(LLAMA_2_13B, replace(OPTIMIZED, quantization=quantization)).weights


def timeline(hours: list[float]) -> float:
    return sum(hours)


def rank_share() -> float:
    """The share of the operations that rank 32 saves against rank 64 on the 13B model."""
    shape = shape_of(LLAMA_2_13B)
    high, low = (model_flops(shape, 512, 512**2, adapter_parameters(LLAMA_2_13B, AdapterSetting(r))) for r in (64, 32))
    return time_reduction_of(high, low)


def table() -> Table:
    """The claims of document A."""
    rent = find_hardware("a100-80-sxm").rent.usd
    runs = [break_even_runs(2000, rented, 0.30) for rented in (20, 40, 120)]
    original = [timeline([0.5, 0.25, 10 / 60, 3 * epoch, 0.5, saving]) for epoch, saving in ((8, 1), (10, 2))]
    optimized = [timeline([0.25, 10 / 60, 5 / 60, epoch, 0.25, 0.5]) for epoch in (8, 10)]
    year_rented, year_owned = annual_usd(12, 120, 25_000), annual_usd(12, 0.30, 2000)
    return Table(
        "A: 34B original against 13B optimised",
        (
            Claim(
                "A1",
                "memory of the 34B model, 4 bit, rank 64",
                "25 GB",
                memory(YI_34B, ORIGINAL),
                "wrong",
                "25 GB needs recomputation and an adapter on queries and values alone:"
                f" {memory_plan(YI_34B, replace(ORIGINAL, adapter=ON_QUERIES, checkpoint_every=1)).total:.0f} GB",
            ),
            Claim(
                "A2",
                "memory of the 13B model, 8 bit, rank 32",
                "14 GB",
                memory(LLAMA_2_13B, OPTIMIZED),
                "wrong",
                f"8 bit holds {weights('8bit'):.1f} GB of weights and 4 bit {weights('4bit'):.1f} GB: the saving is"
                " the smaller model, and 8 bit takes part of it back",
            ),
            Claim(
                "A3",
                "24-30 h to 8-10 h",
                "67% savings",
                f"{time_reduction_of(24, 8):.0%} less time, {speed_up_of(24, 8):.1f} times as fast",
                "right",
                "the ratio holds; where it comes from does not (A9, A14)",
            ),
            Claim(
                "A4",
                "25 GB on a 40 GB card",
                "does not fit",
                "fits" if fits_in(25, 40) else "does not fit",
                "wrong",
                "25 GB and the plan's 10% error fit 40 GB; a 3090 and a 4090 have the same 24 GB",
            ),
            Claim(
                "A5", "A100 at $4 an hour", "$4.00", f"${rent:.2f}", "wrong", "the catalogue's rent, with its source"
            ),
            Claim(
                "A6",
                "perplexity 1.2 to 1.1",
                "8% better",
                f"{1 - 1.1 / 1.2:.1%} lower; {log(1.1):.3f} nats per token",
                "unsupported",
                "so low a loss is memorisation or a leak; perplexities of two tokenizers cannot be compared, bits per"
                " byte can",
            ),
            Claim(
                "A7",
                "12 trainings a year",
                "$26,440 against $2,004: 92% saved",
                f"${year_rented:,.0f} against ${year_owned:,.0f}: {1 - year_owned / year_rented:.0%}; over three years"
                f" of use ${annual_usd(12, 120, 25_000, 3):,.0f} against ${annual_usd(12, 0.30, 2000, 3):,.0f}",
                "wrong",
                "the sums are right, but an A100 is bought and every run is paid to a cloud as well; rented"
                f" alone the year is ${annual_usd(12, 120):,.0f}",
            ),
            Claim(
                "A8",
                "electricity of a run at home",
                "$0.30",
                f"${electricity_usd(450, 10, 0.15):.3f}",
                "wrong",
                f"450 W for 10 h at $0.15/kWh; $0.30 needs ${0.30 / electricity_usd(450, 10, 1.0):.3f}/kWh",
            ),
            Claim(
                "A9",
                "sum of the timelines",
                "24-30 h and 8-10 h",
                f"{original[0]:.1f}-{original[1]:.1f} h and {optimized[0]:.2f}-{optimized[1]:.2f} h",
                "wrong",
                "one epoch takes 8-10 h in both, so model, batch, length and rank bought nothing",
            ),
            Claim(
                "A10",
                "rank 64 to 32",
                "2 times as fast",
                f"{rank_share():.1%} fewer operations",
                "wrong",
                "the frozen model does nearly all the work",
            ),
            Claim(
                "A14",
                "parts of the speed-up 2.6, 2, 2, 2, 3",
                "3 times",
                f"{2.6 * 2 * 2 * 2 * 3:.1f} times",
                "wrong",
                "the parts do not multiply to the whole; all of it is epochs left out, which is less training",
            ),
            Claim(
                "A15",
                "6-8 h at $4; 9-11 h at $1-1.50",
                "$40; $15-20",
                f"${6 * 4}-{8 * 4}; ${9 * 1:.0f}-{11 * 1.5:.1f}",
                "wrong",
                "hours times price",
            ),
            Claim(
                "A16",
                "break-even of a $2,000 card",
                "3-4 runs",
                f"{runs[0]:.1f} runs against $20, {runs[1]:.1f} against $40, {runs[2]:.1f} against $120",
                "wrong",
                "hardware / (rented - owned) per run",
            ),
            Claim(
                "A17",
                "GPU memory 25 to 14 GB, training 24 to 8 h, epochs 3 to 1",
                "-44%, -67%, -67%",
                f"{-time_reduction_of(25, 14):.0%}, {-time_reduction_of(24, 8):.0%}, {-time_reduction_of(3, 1):.0%}",
                "right",
                "the ratios hold; the home run costs $0 here and $0.30 in A2",
            ),
        ),
    )
