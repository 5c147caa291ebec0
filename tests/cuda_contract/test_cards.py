"""Which cards a job sees, and what is said where torch cannot use the one that is there."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cpu_only import hide_gpus

from snaketune.core import gpus
from snaketune.core.errors import ConfigError
from snaketune.core.gpus import has_card, named_cards, take_cards, visible_cards, why_unusable
from snaketune.evaluate.models import best_device
from snaketune.train import device as device_module
from snaketune.train.device import find_device
from snaketune.train.monitoring import step_timers

TWO = "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-aaaa)\nGPU 1: NVIDIA GeForce RTX 4090 (UUID: GPU-bbbb)\n"
SLICED = (
    "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-cccc)\n"
    "  MIG 1g.10gb     Device  0: (UUID: MIG-0001)\n"
    "  MIG 1g.10gb     Device  1: (UUID: MIG-0002)\n"
)


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch):
    monkeypatch.setattr(gpus, "_held", [])


@pytest.fixture
def listing(monkeypatch):
    monkeypatch.setattr(gpus, "_ask", lambda *arguments: TWO)


def other_job(count, folder, monkeypatch):
    """What another process would see: it holds locks of its own."""
    held, environment = gpus._held, {}
    monkeypatch.setattr(gpus, "_held", [])
    take_cards(count, folder, environment)
    others = gpus._held
    monkeypatch.setattr(gpus, "_held", held)
    return environment.get("CUDA_VISIBLE_DEVICES"), others


def test_names_are_those_of_cards_and_of_the_slices_of_cut_ones():
    assert named_cards(TWO) == ["GPU-aaaa", "GPU-bbbb"]
    assert named_cards(SLICED) == ["MIG-0001", "MIG-0002"]
    assert named_cards("") == []


def test_two_jobs_at_a_time_see_one_card_each(listing, tmp_path, monkeypatch):
    first, locks = other_job(1, tmp_path, monkeypatch)
    second, more = other_job(1, tmp_path, monkeypatch)
    third, _ = other_job(1, tmp_path, monkeypatch)
    assert (first, second, third) == ("GPU-aaaa", "GPU-bbbb", "GPU-aaaa")
    for lock in (*locks, *more):
        lock.close()
    assert other_job(1, tmp_path, monkeypatch)[0] == "GPU-aaaa"


@pytest.mark.parametrize("name", ["0", "GPU-aa", "GPU-aaaa"])
def test_a_card_has_one_lock_however_a_job_names_it(listing, tmp_path, monkeypatch, capsys, name):
    _, locks = other_job(1, tmp_path, monkeypatch)
    environment = {"CUDA_VISIBLE_DEVICES": f"{name},1"}
    take_cards(1, tmp_path, environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1" and locks
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(gpus, "_held", [])
    take_cards(1, tmp_path, environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert capsys.readouterr().err == "Note: no other GPU is free, so this job shares 1 with another one.\n"


def test_numbers_in_an_order_that_only_cuda_knows_and_those_of_slices_stay(monkeypatch):
    def found(listing, **order):
        monkeypatch.setattr(gpus, "_ask", lambda *arguments: listing)
        return gpus.uuids_of(["1", "9"], {"CUDA_VISIBLE_DEVICES": "1,9", **order})

    two_kinds = TWO.replace("4090", "3060", 1)
    assert found(TWO) == {"1": "GPU-bbbb", "9": "9"}
    assert found(two_kinds) == {"1": "1", "9": "9"}
    assert found(two_kinds, CUDA_DEVICE_ORDER="PCI_BUS_ID") == {"1": "GPU-bbbb", "9": "9"}
    assert found(SLICED, CUDA_DEVICE_ORDER="PCI_BUS_ID") == found(None) == {"1": "1", "9": "9"}


def test_of_several_cards_one_that_is_lost_hides_no_other(tmp_path, monkeypatch):
    lost = "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost. Reboot the system to recover."
    answer = f"cat <<'END'\n{TWO.splitlines()[0]}\n{lost}\nEND\nexit 15\n"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{answer}")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_cards({}) == ["GPU-aaaa"]
    assert gpus._ask("--query-gpu=driver_version", "--format=csv,noheader") is None


def test_cards_on_which_other_programs_compute_come_last(tmp_path, monkeypatch):
    answers = {"-L": TWO, "--query-compute-apps=gpu_uuid": "GPU-aaaa\nGPU-aaaa\n"}
    monkeypatch.setattr(gpus, "_ask", lambda first, *more: answers[first])
    assert [other_job(1, tmp_path, monkeypatch)[0]] == ["GPU-bbbb"]
    environment = {"CUDA_VISIBLE_DEVICES": "0,1"}
    take_cards(1, tmp_path / "elsewhere", environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_workflows_of_several_folders_share_their_locks_unless_the_place_is_somebody_else_s(tmp_path):
    folder = gpus.locks_of_machine(tmp_path)
    assert folder == gpus.locks_of_machine(tmp_path)
    assert folder.is_dir() and folder.parent.stat().st_mode & 0o077 == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / folder.parent.name).symlink_to(tmp_path)
    assert gpus.locks_of_machine(other) == gpus.LOCKS


def test_a_card_that_is_alone_is_locked_too(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "_ask", lambda *arguments: TWO.splitlines()[0])
    environment = {}
    take_cards(1, tmp_path, environment)
    assert environment == {} and [path.name for path in tmp_path.iterdir()] == ["GPU-aaaa.lock"]


FOUR = "".join(f"echo 'GPU {n}: NVIDIA A100 (UUID: GPU-{n})'\n" for n in range(4))
JOB = """
import os, sys
from snaketune.core.gpus import count_cards, take_cards
found = count_cards()
take_cards(1)
print(found, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


def test_four_jobs_have_four_devices_and_a_killed_one_leaves_its_own_to_the_next(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(f'#!/bin/sh\n[ "$1" = -L ] || exit 0\n{FOUR}')
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    code = f"import sys\nsys.path.insert(0, {str(Path(gpus.__file__).parents[2])!r})\n{JOB}"
    code = code.replace("take_cards(1)", f"take_cards(1, __import__('pathlib').Path({str(tmp_path)!r}))")

    def start():
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    jobs = [start() for _ in range(4)]
    try:
        seen = [job.stdout.readline().split() for job in jobs]
        assert sorted(seen) == [["4", f"GPU-{n}"] for n in range(4)]
        jobs[2].kill()
        jobs[2].wait()
        jobs.append(start())
        assert jobs[-1].stdout.readline().split() == seen[2]
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def test_a_job_of_two_processes_keeps_two_cards(listing, tmp_path):
    environment = {}
    take_cards(2, tmp_path, environment)
    assert environment == {}


@pytest.mark.parametrize(
    ("value", "seen"),
    [("2,3", ["2", "3"]), ("GPU-aaaa", ["GPU-aaaa"]), ("", []), ("-1", []), ("1,-1,0", ["1"]), (" 0 , 1 ", ["0", "1"])],
)
def test_what_the_shell_or_slurm_allows_is_kept_to(listing, value, seen):
    assert visible_cards({"CUDA_VISIBLE_DEVICES": value}) == seen


def test_one_of_the_allowed_cards_is_taken(listing, tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": "5,6"}
    take_cards(1, tmp_path, environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "5"


def test_without_a_card_nothing_is_set(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "_ask", lambda *arguments: None)
    environment = {}
    take_cards(1, tmp_path, environment)
    assert environment == {}


def machine(folder, *files):
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def driver(version):
    return lambda *arguments: TWO if "-L" in arguments else f"{version}\n"


@pytest.mark.parametrize(
    ("version", "cuda", "words"),
    [
        (
            "535.183.01",
            "13.0",
            r"driver 535\.183\.01 is too old for torch 2\.13\.0 with CUDA 13\.0, .* 580\.65",
        ),
        ("470.256.02", "12.6", r"driver 470\.256\.02 is too old .* needs 525\.60"),
        ("580.95.05", "13.0", r"\(driver 580\.95\.05\) .* cannot use it: run `nvidia-smi`"),
        ("580.95.05", None, r"a build without CUDA: .*SNAKETUNE_TORCH=gpu make install"),
    ],
)
def test_a_card_that_torch_cannot_use_is_a_sentence(tmp_path, version, cuda, words):
    root = machine(tmp_path, "dev/nvidia0")
    reason = why_unusable("2.13.0", cuda, {}, root, driver(version))
    assert reason and re.search(words, reason), reason
    assert "CUDA_VISIBLE_DEVICES=" in reason
    for environment in ({"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}):
        assert why_unusable("2.13.0", cuda, environment, root, driver(version)) is None


def test_a_driver_is_read_without_nvidia_smi_too(tmp_path):
    root = machine(tmp_path, "dev/nvidia0", "proc/driver/nvidia/version")
    line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  515.105.01  Mon Mar 6 07:36:22 UTC 2023\n"
    (root / "proc/driver/nvidia/version").write_text(line)
    assert "driver 515.105.01 is too old" in why_unusable("2.13.0", "13.0", {}, root, lambda *arguments: None)


def test_containers_without_a_card_and_windows_with_one(tmp_path):
    silent = machine(tmp_path / "container", "proc/driver/nvidia/version", "dev/nvidiactl")
    assert not has_card(silent, lambda *arguments: None)
    assert why_unusable("2.13.0", "13.0", {}, silent, lambda *arguments: None) is None
    windows = machine(tmp_path / "wsl", "dev/dxg")
    assert has_card(windows, driver("560.1"))
    assert not has_card(windows, lambda *arguments: None)


def test_training_and_evaluation_refuse_to_use_the_cpu_instead(monkeypatch):
    monkeypatch.setattr(device_module, "_why_unusable", lambda: "the NVIDIA driver 470 is too old.")
    for look in (find_device, best_device):
        with pytest.raises(ConfigError, match="too old"):
            look()


@pytest.mark.parametrize("card", ["V100"], indirect=True)
def test_a_card_that_the_build_has_no_kernels_for_is_a_sentence(card):
    with pytest.raises(ConfigError, match=r"Tesla V100.* \(compute capability 7\.0\) has no kernels in torch"):
        find_device()


@pytest.mark.parametrize("card", ["T4", "4090", "H100", "B200", "MIG", "3060"], indirect=True)
def test_other_cards_are_taken(card):
    found = find_device()
    assert (found.type, found.has_bf16, found.has_tf32) == ("cuda", card.card.has_bf16, card.card.has_bf16)


@pytest.mark.parametrize(
    ("capability", "built", "has"),
    [
        ((8, 9), ["sm_80", "sm_86"], True),
        ((12, 1), ["sm_90", "sm_120"], True),
        ((9, 0), ["sm_80", "sm_100a"], False),
        ((13, 0), ["sm_90", "compute_120"], True),
        ((7, 0), ["sm_50", "sm_70"], True),
    ],
)
def test_kernels_serve_their_generation_and_ptx_all_later_ones(capability, built, has):
    assert device_module._has_kernels(capability, built) is has


class Nvml:
    """NVML as nvidia-ml-py gives it."""

    NVMLError_DriverNotLoaded = NVMLError_NotSupported = type("NVMLError", (Exception,), {})

    def __init__(self, busy):
        self._busy = busy

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetUtilizationRates(self, handle):
        if self._busy is None:
            raise self.NVMLError_NotSupported("Not Supported")
        return SimpleNamespace(gpu=self._busy)


@pytest.mark.parametrize(("card", "busy"), [("4090", 87), ("MIG", None)], indirect=["card"])
def test_how_busy_a_card_is_comes_from_nvml_and_is_unknown_for_a_slice(card, busy, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "_HAS_PYNVML", True)
    monkeypatch.setattr(torch.cuda, "pynvml", Nvml(busy), raising=False)
    monkeypatch.setattr(torch.cuda, "_get_nvml_device_index", lambda device: 0)
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(busy))
    step_timers._has_utilization.cache_clear()
    assert [step_timers.gpu_utilization(), step_timers.gpu_utilization()] == [busy, busy]
    assert capsys.readouterr().out.count("GPU utilisation is not recorded") == (busy is None)
    step_timers._has_utilization.cache_clear()


def test_nvml_s_package_is_installed_with_the_workflow():
    assert importlib.metadata.version("nvidia-ml-py")


def test_the_suite_hides_a_gpu_of_the_machine_from_torch(tmp_path):
    environment = {}
    hide_gpus(environment, tmp_path)
    assert environment == {}
    for name in ("nvidiactl", "nvidia0"):
        (tmp_path / name).touch()
    hide_gpus(environment, tmp_path)
    assert visible_cards(environment) == []
    assert why_unusable("2.13.0", "13.0", environment, tmp_path) is None
    chosen = {"CUDA_VISIBLE_DEVICES": "1"}
    hide_gpus(chosen, tmp_path)
    assert visible_cards(chosen) == ["1"]
