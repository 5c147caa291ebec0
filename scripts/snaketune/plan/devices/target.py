"""The device that a run is planned for, and what an hour of it costs."""

from dataclasses import dataclass

from snaketune.plan.costs.budget import electricity_usd
from snaketune.plan.devices.hardware import THIS_MACHINE, Hardware, find_hardware
from snaketune.plan.devices.machine import Machine
from snaketune.settings.plan_section import PlanSection

CPU = "cpu"


@dataclass(frozen=True, slots=True)
class HourlyPrice:
    """US dollars for an hour of one device, None if unknown, and the origin of the figure."""

    usd: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Target:
    """A device to plan for."""

    hardware: Hardware
    gpus: int
    is_here: bool
    """Whether it is the device of this machine."""
    memory_gb: float | None
    """Of one device: this machine's own if it is that device, else from the catalogue."""
    has_bf16: bool
    price: HourlyPrice

    @property
    def is_cpu(self) -> bool:
        """Tell whether the device is a CPU."""
        return self.hardware.id == CPU

    @property
    def kind(self) -> str:
        """Return ``cpu`` or ``cuda``."""
        return CPU if self.is_cpu else "cuda"


def choose_target(plan: PlanSection, machine: Machine) -> Target:
    """Return the device that the ``plan`` section asks for; ``auto`` is the GPU of this machine, else its CPU."""
    name = (machine.gpu or CPU) if plan["gpu"] == THIS_MACHINE else plan["gpu"]
    hardware = find_hardware(name) or _unknown(name)
    here = machine.gpu or CPU
    is_here = hardware.id == CPU or hardware.id == (find_hardware(here) or _unknown(here)).id
    memory = machine.ram_gb if hardware.id == CPU else machine.gpu_memory_gb
    has_bf16 = machine.has_bf16 if is_here else hardware.tflops.get("bf16") is not None
    return Target(
        hardware=hardware,
        gpus=plan["num_gpus"],
        is_here=is_here,
        memory_gb=memory if is_here else hardware.memory_gb,
        has_bf16=has_bf16 and hardware.id != CPU,
        price=hourly_price(plan, hardware),
    )


def _unknown(name: str) -> Hardware:
    """Return a device that is not in the catalogue, of which only the name is known."""
    rates: dict[str, float | None] = dict.fromkeys(("bf16", "fp16", "int8", "fp8"))
    return Hardware(name, name, (name,), None, rates, None, None, None, None, None, ())


def hourly_price(plan: PlanSection, hardware: Hardware) -> HourlyPrice:
    """Return the price of an hour of one device: as configured, own electricity, or the catalogue's rent."""
    if plan["price_per_gpu_hour"] is not None:
        return HourlyPrice(plan["price_per_gpu_hour"], "plan.price_per_gpu_hour")
    if plan["owned"]:
        return _electricity(plan, hardware)
    if hardware.rent is None:
        return HourlyPrice(None, "config/hardware.yaml has no price for it; give plan.price_per_gpu_hour")
    day = f" of {hardware.rent.day}" if hardware.rent.day else ""
    return HourlyPrice(hardware.rent.usd, f"catalogue{day}: {hardware.rent.source}")


def _electricity(plan: PlanSection, hardware: Hardware) -> HourlyPrice:
    if hardware.watts is None:
        return HourlyPrice(None, "the catalogue has no watts for it; give plan.price_per_gpu_hour")
    rate = plan["electricity_usd_per_kwh"]
    return HourlyPrice(electricity_usd(hardware.watts, 1, rate), f"electricity: {hardware.watts:g} W at ${rate:g}/kWh")
