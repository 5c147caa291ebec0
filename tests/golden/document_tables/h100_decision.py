"""Documents D and E: options on H100s, and formulas of cost."""

from claim import Claim, Table
from plan_models import LLAMA_2_13B

from snaketune.plan.advice.advice import PlanSituation, advise
from snaketune.plan.advice.strategies import Strategy, compare_strategies
from snaketune.plan.costs.budget import (
    RunInputs,
    budget_of,
    hours_of,
    saves_of,
    speed_up_of,
    steps_of,
    time_reduction_of,
)
from snaketune.plan.costs.throughput import SLOWER
from snaketune.plan.memory.counting import count_config_parameters
from snaketune.plan.memory.memory import memory_plan
from snaketune.plan.memory_settings import MemorySetting

H100 = Strategy("single", 1, 2.50)
FSDP = Strategy("fsdp", 2, 2.50, efficiency=0.95)
ZERO3 = Strategy("deepspeed_zero3", 4, 1.20, efficiency=0.95, gpu_speed=0.5)


def checkpoint_share(save_steps: int, steps: int = 28_000) -> float:
    """The share of 38 hours of training that saves of two minutes are."""
    return saves_of(steps, save_steps) * 2 / 60 / 38


def documents_d() -> Table:
    """The claims of document D."""
    before = {row.strategy.name: row for row in compare_strategies(H100, 38, [FSDP, ZERO3])}
    after = {row.strategy.name: row for row in compare_strategies(H100, 22, [Strategy("fsdp", 2, 2.50)])}
    parts = [(0.10, 0.20, 0.05, 0.20, 0.05), (0.15, 0.30, 0.10, 0.30, 0.10)]
    together = []
    for shares in parts:
        left = 1.0
        for share in shares:
            left *= 1 - share
        together.append(1 - left)
    run = RunInputs(rows=1, tokens=38 * 3600, tokens_per_second=1, price_per_gpu_hour=2.50)
    return Table(
        "D: options on H100s",
        (
            Claim("D1", "38 h on one H100 at $2.50", "$95", f"${budget_of(run).cost_usd:.0f}", "right", ""),
            Claim(
                "D2",
                "2 x H100 in 20 h, 4 x A100-40 in 20 h",
                "$100, $96",
                f"${before['fsdp'].cost_usd:.0f}, ${before['deepspeed_zero3'].cost_usd:.0f}",
                "right",
                f"speed-up {FSDP.speed_up:.2f} and {ZERO3.speed_up:.2f} at price ratios"
                f" {before['fsdp'].price_ratio:.2f} and {before['deepspeed_zero3'].price_ratio:.2f}: several GPUs are"
                " cheaper only if the first exceeds the second",
            ),
            Claim(
                "D2",
                "one optimised GPU in 22 h against 2 x H100 as they were",
                "$55 against $100",
                f"${after['single'].cost_usd:.0f} against ${after['fsdp'].cost_usd:.0f} in {after['fsdp'].hours:.0f} h",
                "wrong",
                "only one side got the optimisations; with them on both, two GPUs cost the same at best",
            ),
            Claim(
                "D3",
                "batch 2 x 8 to 4 x 2",
                "10-15% faster, the same training",
                f"{steps_of(28_000 * 16, 4, 2) / steps_of(28_000 * 16, 2, 8):.0f} times the steps",
                "wrong",
                "the effective batch falls from 16 to 8",
            ),
            Claim(
                "D4",
                "checkpoints every 1,000 of 28,000 steps, 2 minutes each",
                "5-10% of the time",
                f"{saves_of(28_000, 1000)} saves are {checkpoint_share(1000):.1%}",
                "wrong",
                "28 x 2 minutes of 38 h",
            ),
            Claim(
                "D4",
                "checkpoints every 2,000 steps",
                "2-4 h saved",
                f"{(saves_of(28_000, 1000) - saves_of(28_000, 2000)) * 2} minutes,"
                f" {checkpoint_share(1000) - checkpoint_share(2000):.1%}",
                "wrong",
                f"and nothing with D3, which doubles the steps: {saves_of(56_000, 2000)} saves again",
            ),
            Claim(
                "D5",
                "parts of 10-15, 20-30, 5-10, 20-30, 5-10%",
                "37-58% together",
                f"{together[0]:.0%}-{together[1]:.0%} together; 38 h to 20-24 h is {time_reduction_of(38, 24):.0%}-"
                f"{time_reduction_of(38, 20):.0%}",
                "wrong",
                "reductions multiply as what is left; sums and speed-ups were mixed",
            ),
            Claim(
                "D5",
                "38 h to 22 h",
                "37-58%",
                f"{time_reduction_of(38, 22):.0%} less time, {speed_up_of(38, 22):.2f} times as fast",
                "wrong",
                "",
            ),
            Claim(
                "D6",
                "no loss of accuracy",
                "zero",
                "unknown",
                "unsupported",
                "never measured, and D3 trains differently",
            ),
        ),
    )


def documents_e() -> Table:
    """The claims of document E."""
    tokens = 10_000_000
    method = next(
        one for one in advise(PlanSituation(adapter_fits=False, quantized_fits=True)) if one.topic == "method"
    )
    full = count_config_parameters(LLAMA_2_13B).total * 16 / 1e9
    planned = memory_plan(LLAMA_2_13B, MemorySetting(512, adapter=None, weight_dtype="float32"))
    state = planned.weights + planned.gradients + planned.optimizer
    return Table(
        "E: formulas of cost",
        (
            Claim(
                "E3",
                "cost of 10 million tokens at 1,000 a second and $2.50 an hour",
                f"${tokens / 1000 * 2.5:,.0f}",
                f"${hours_of(tokens, 1000) * 2.5:.2f}",
                "wrong",
                "tokens / rate are seconds; an hour has 3,600",
            ),
            Claim(
                "E4",
                "hours = tokens / (rate x GPUs x utilisation)",
                f"{tokens / 1000:,.0f} h",
                f"{hours_of(tokens, 1000):.2f} h",
                "wrong",
                "3,600 times too much; and a rate that was measured already holds the utilisation",
            ),
            Claim(
                "E6",
                "4 bit",
                "small overhead",
                f"{SLOWER['4bit']:g} times slower is planned",
                "wrong",
                "published: 1.56 times at 7B and 2.0 at 13B",
            ),
            Claim(
                "E7",
                "all weights of a 13B model",
                "several 24-48 GB GPUs with offload",
                f"{full:.0f} GB",
                "right",
                f"16 bytes a parameter (planned: {state:.0f} GB) before activations",
            ),
            Claim(
                "E8",
                "gradient checkpointing raises throughput",
                "faster",
                "slower at the same batch",
                "wrong",
                "see C4",
            ),
            Claim("E9", "little memory", "QLoRA", method.choice, "right", method.reason),
        ),
    )
