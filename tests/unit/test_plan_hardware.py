"""The catalogue of devices: complete, plausible, sourced, and matched by whole names only."""

import ast
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from snaketune.core.errors import ConfigError
from snaketune.plan.devices import hardware
from snaketune.plan.devices.hardware import find_hardware, load_catalogue, peak_flops

CATALOGUE = load_catalogue()
GPUS = [device for device in CATALOGUE if device.id != "cpu"]

PLAN = Path(hardware.__file__).parents[1]
# Traces a model on the meta device.
NEEDS_TORCH = ("__init__", "meta_ops")


def test_all_devices_of_the_ladder_are_there():
    ids = {device.id for device in CATALOGUE}
    assert {"rtx3090", "rtx3090ti", "rtx4090", "rtx5090", "a6000", "l40s", "a100-40-sxm", "a100-80-sxm"} <= ids
    assert {"h100-sxm", "h100-pcie", "h100-nvl", "h200-sxm", "h200-nvl", "b200", "cpu"} <= ids
    assert len(ids) == len(CATALOGUE)


def test_names_are_unique():
    names = [name.lower() for device in CATALOGUE for name in device.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("device", GPUS, ids=lambda device: device.id)
def test_figures_are_plausible(device):
    assert 8 <= device.memory_gb <= 300
    assert 300 <= device.bandwidth <= 10000
    assert 100 <= device.watts <= 1200
    assert set(device.tflops) == {"bf16", "fp16", "int8", "fp8"}
    assert 50 <= device.tflops["bf16"] <= 3000
    assert device.tflops["fp16"] == device.tflops["bf16"]
    assert 1.9 <= device.tflops["int8"] / device.tflops["bf16"] <= 4.1
    if device.tflops["fp8"]:
        assert 1.9 <= device.tflops["fp8"] / device.tflops["bf16"] <= 2.1
    # At least one FLOP per byte times a hundred: below that a figure is in the wrong unit.
    assert 60 <= device.tflops["bf16"] * 1000 / device.bandwidth <= 500


@pytest.mark.parametrize("device", CATALOGUE, ids=lambda device: device.id)
def test_every_figure_and_price_has_a_source(device):
    assert device.sources and all(len(source) > 10 for source in device.sources)
    for price, low, high in ((device.buy, 500, 60000), (device.rent, 0.1, 20)):
        if price:
            assert low <= price.usd <= high
            assert len(price.source) > 5
            assert price.day is None or date(2015, 1, 1) < price.day < date(2100, 1, 1)


def test_what_a_cpu_does_is_unknown():
    cpu = find_hardware("cpu")
    assert cpu.memory_gb is cpu.bandwidth is cpu.rent is None
    assert peak_flops("cpu") is None


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 836),
        ("NVIDIA B200", 2250),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA RTX A6000", 154.85),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 3090 Ti", 80),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("nvidia geforce  rtx 5090", 209.5),
        ("h100-sxm", 989),
    ],
)
def test_peak_of_names_as_torch_gives_them(name, tflops):
    assert peak_flops(name, "bfloat16") == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GH200 480GB",
        "NVIDIA H20",
        "NVIDIA RTX 6000 Ada Generation",
        "NVIDIA L40",
        "Tesla T4",
        "AMD Instinct MI300X",
        "",
    ],
)
def test_unknown_devices_have_no_peak(name):
    assert find_hardware(name) is None
    assert peak_flops(name) is None


def test_number_formats():
    name = "NVIDIA H100 80GB HBM3"
    assert peak_flops(name, "torch.float16") == peak_flops(name, "fp16") == 989e12
    assert peak_flops(name, "fp8") == peak_flops(name, "int8") == 1979e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp8") is None
    assert peak_flops(name, "float32") is None


@pytest.mark.parametrize("text", ["devices: [{id: x}]", "devices: [", "nothing: 1", "3"])
def test_a_damaged_catalogue_is_one_sentence(tmp_path, text):
    file = tmp_path / "hardware.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"config/hardware\.yaml cannot be used"):
        load_catalogue(file)
    with pytest.raises(ConfigError, match=r"config/hardware\.yaml"):
        load_catalogue(tmp_path / "missing.yaml")


def test_the_package_needs_only_yaml_torch_and_its_libraries():
    shared = {
        f"snaketune.{name}"
        for name in (
            "core.errors",
            "core.gpus",
            "model.architecture",
            "model.adapters.lora",
            "train.kernels.fused_layers",
        )
    }
    typed = ("snaketune.plan", "snaketune.settings", "snaketune.facts")
    allowed = {"yaml", "torch", "transformers", "peft", "snaketune"}
    # All but what reads and keeps files of runs.
    of_files = {"plan_job.py", "past_runs.py", "cache.py"}
    for file in (path for path in PLAN.rglob("*.py") if path.name not in of_files):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names or top in allowed, f"{file.name} imports {name}"
                assert top != "snaketune" or name in shared or name.startswith(typed)


def test_importing_the_plan_does_not_import_torch():
    modules = [path.relative_to(PLAN).with_suffix("").parts for path in sorted(PLAN.rglob("*.py"))]
    names = [".".join(("snaketune", "plan", *parts)) for parts in modules if parts[-1] not in NEEDS_TORCH]
    names = [*names, "snaketune.workflow.lifecycle"]
    statement = "import sys; " + "; ".join(f"import {name}" for name in names)  # the last: every start of Snakemake
    scripts = PLAN.parents[1]
    check = f"import sys; sys.path.insert(0, {str(scripts)!r}); {statement}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
