"""Tokens per second of one device: measured by an earlier run, else estimated, else unknown."""

from dataclasses import dataclass
from typing import Literal

from snaketune.plan.costs.past_runs import Measurement
from snaketune.plan.devices.calibration import BAND, Calibration
from snaketune.plan.devices.hardware import Hardware
from snaketune.plan.generation import UNMEASURED
from snaketune.plan.workload import Work

Origin = Literal["estimated", "measured", "unknown"]
LOW_SHARE, HIGH_SHARE = 0.25, 0.55
"""Range of MFU of published single-GPU runs of 7 to 13 billion parameters, around 0.4."""
SMALL_MODEL = 1_000_000_000
LOW_SHARE_OF_SMALL = 0.05
"""Below a billion parameters launching kernels may take longer than running them: the band is wide there."""
TOO_SMALL = 100_000_000
"""Below this many parameters it always does, and FLOPs do not predict the time."""
MEASURED_BAND = 0.15
"""Least uncertainty of a measured throughput for the next run of the same kind (the project's own bar)."""
SLOWER = {"none": 1.0, "8bit": 1.75, "4bit": 1.75}
"""Slow-down of a step by a quantised base. 4-bit: LitGPT's resource tables, A100, 1.56 (7B) to 2.0 (13B). 8-bit: no
published figure, assumed as for 4-bit."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Real tokens per second of one device, with its uncertainty band; None is unknown."""

    tokens_per_second: float | None
    low: float | None
    high: float | None
    origin: Origin
    source: str

    def band(self, hours: float) -> tuple[float | None, float | None]:
        """Return the hours at the highest and at the lowest throughput."""
        now = self.tokens_per_second
        return (hours * now / self.high, hours * now / self.low) if now and self.low and self.high else (None, None)


def rate_of(
    work: Work,
    hardware: Hardware,
    utilization: float,
    measured: Measurement | None,
    calibration: Calibration | None = None,
) -> Rate:
    """Return the throughput of a run on a device, measured if possible.

    Without one, what the device reached in runs of about this size comes before a share of its peak.
    """
    if measured:
        rate = measured.tokens_per_second
        # The band is never narrower than the uncertainty of a repeated measurement, even if the runs agree by chance.
        low, high = min(measured.slowest, rate * (1 - MEASURED_BAND)), max(measured.fastest, rate * (1 + MEASURED_BAND))
        return Rate(rate, low, high, "measured", measured.source)
    # An estimate's main uncertainty is the share of the peak that a run reaches. Runs of similar size on the same
    # device share it, so what they reached is nearer than a published range.
    flops = work.flops_per_token()
    if calibration and flops:
        return calibrated_rate(calibration, flops)
    return estimated_rate(work, hardware, utilization)


def calibrated_rate(calibration: Calibration, flops_per_token: float) -> Rate:
    """Return the throughput at the FLOP/s that other runs reached on the device."""
    reached = calibration.flops_per_second
    low, high = min(calibration.lowest, reached * (1 - BAND)), max(calibration.highest, reached * (1 + BAND))
    runs = ", ".join(calibration.runs)
    source = f"{reached / 1e9:.3g} GFLOP/s reached by {runs} / {flops_per_token / 1e9:.3g} GFLOP per token"
    return Rate(reached / flops_per_token, low / flops_per_token, high / flops_per_token, "estimated", source)


def estimated_rate(
    work: Work,
    hardware: Hardware,
    utilization: float,
    every: int | None = None,
    full: bool | None = None,
    quantization: str | None = None,
) -> Rate:
    """Return the throughput ``peak · utilization / FLOPs per token``, unknown without a peak or a count.

    Args:
        work: the run.
        hardware: the device.
        utilization: share of its peak that is reached.
        every: recomputed layers, if not the run's own setting, as in ``Work.flops_per_token``.
        full: whether all weights are trained, if not the run's own method.
        quantization: of the base, if not the run's own.
    """
    if work.generated:
        return Rate(None, None, None, "unknown", UNMEASURED)
    peak, flops = peak_of(work, hardware), work.flops_per_token(every, full)
    # No number is better than one that is wrong by a factor of ten: the step's time is the count of kernels, which
    # FLOPs say nothing of.
    if peak and work.parameters < TOO_SMALL:
        return Rate(None, None, None, "unknown", "a model this small is bound by kernel launches: only a run can tell")
    if not peak or not flops:
        missing = (
            "its peak FLOP/s is not in config/hardware.yaml" if flops else "the model's operations cannot be counted"
        )
        return Rate(None, None, None, "unknown", f"{missing}, and no earlier run measured it")
    # The peak of the device is that of 16-bit products; dequantisation comes on top of them.
    slower = SLOWER[quantization or work.setting.quantization]
    ideal = peak / flops / slower
    lowest = LOW_SHARE if work.parameters >= SMALL_MODEL else LOW_SHARE_OF_SMALL
    source = (
        f"{peak / 1e12:g} TFLOP/s · {utilization:g} / {flops / 1e9:.3g} GFLOP per token"
        f"{f' / {slower:g} (quantised base)' if slower > 1 else ''}"
    )
    # A configured utilisation outside the published range widens the band: the estimate lies in it whatever was set.
    low, high = ideal * min(lowest, utilization), ideal * max(HIGH_SHARE, utilization)
    return Rate(ideal * utilization, low, high, "estimated", source)


def peak_of(work: Work, hardware: Hardware) -> float | None:
    """Return the peak FLOP/s of the device in the dtype that the run computes in."""
    number_format = work.setting.autocast or work.setting.weight_dtype
    rate = hardware.tflops.get({"bfloat16": "bf16", "float16": "fp16"}.get(number_format, ""))
    return rate * 1e12 if rate else None
