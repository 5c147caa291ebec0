"""Measure the streaming merge beside PEFT's merge_and_unload: peak memory, time, and how far the results are apart.

Run it from anywhere: `python benchmarks/merge.py`. It makes a Llama of random bfloat16 weights in six files or more and
a random adapter, both seeded, needs no network, and about four times the model's size in a temporary folder. Each way
merges in a process of its own; peak memory is VmHWM, which counts the pages of mapped files as well. The table goes to
standard error, JSON to standard output.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from snaketune.merge.adapter import read_adapter
from snaketune.merge.checkpoint import Checkpoint, plan_shards, size_in_bytes, write_shards
from snaketune.merge.rounding import NEAREST, Rounding
from snaketune.merge.streaming import merge_streaming

WAYS = ("streaming", "peft")
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_base(folder: Path, layers: int, shard: str) -> None:
    """Write a model of about ``45 * layers + 130`` million random parameters, one file in memory at a time."""
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in LlamaForCausalLM(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    sizes, formats = {name: prod(shape) * 2 for name, shape in shapes.items()}, dict.fromkeys(shapes, torch.bfloat16)
    folder.mkdir()
    config.save_pretrained(folder)

    def tensor(name: str) -> torch.Tensor:
        return torch.empty(shapes[name], dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    write_shards(folder, plan_shards(sizes, size_in_bytes(shard)), tensor, formats, shapes)


def make_adapter(folder: Path, base: Path, rank: int) -> None:
    """Write an adapter of random numbers for every linear layer, of a size that training ends with."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, shape in Checkpoint(base).shapes.items():
        if any(f".{module}." in name for module in MODULES):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(rank, shape[1], generator=generator) * 0.02
            tensors[f"{module}.lora_B.weight"] = torch.randn(shape[0], rank, generator=generator) * 0.02
    LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MODULES, task_type="CAUSAL_LM").save_pretrained(folder)
    save_file(tensors, folder / "adapter_model.safetensors")


def merge(way: str, root: Path, shard: str) -> dict[str, float]:
    """Merge in this process and return its peak memory and time."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    target = root / way
    if way == "streaming":
        target.mkdir()
        base, adapter, limit = Checkpoint(root / "base"), read_adapter(root / "adapter"), size_in_bytes(shard)
        merge_streaming(base, adapter, target, None, limit, Rounding(NEAREST))  # as PEFT rounds
    else:
        from peft import PeftModel

        model: Any = AutoModelForCausalLM.from_pretrained(root / "base", dtype="auto")
        PeftModel.from_pretrained(model, str(root / "adapter")).merge_and_unload().save_pretrained(
            target, max_shard_size=shard
        )
    seconds = time.perf_counter() - start
    return {"peak_mb": peak_megabytes(), "wall_s": seconds, "cpu_s": time.process_time()}


def peak_megabytes() -> float:
    """Return the most memory that this process has had, in 10^6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1.024e-3


def differences(root: Path) -> dict[str, Any]:
    """Compare the two results: differing numbers, and the largest difference in units in the last place (bfloat16).

    PEFT rounds the change to bfloat16 before it adds it, so a unit is that of the larger of the sum and the change.
    """
    base, ours, theirs = (Checkpoint(root / name) for name in ("base", *WAYS))
    assert set(ours.dtypes) == set(theirs.dtypes)
    numbers, changed, differing, largest = 0, 0, 0, 0.0
    for name in ours.dtypes:
        before, one, other = (checkpoint.tensor(name) for checkpoint in (base, ours, theirs))
        numbers, changed = numbers + one.numel(), changed + int((one != before).sum())
        if torch.equal(one, other):
            continue
        size = torch.maximum(one.float().abs(), (one.float() - before.float()).abs()).clamp_min(1e-30)
        distance = (one.float() - other.float()).abs() / torch.exp2(torch.floor(torch.log2(size)) - 7)
        differing, largest = differing + int((distance > 0).sum()), max(largest, float(distance.max()))
    return {"numbers": numbers, "changed": changed, "differing": differing, "largest_ulp": largest}


def measure(way: str, root: Path, shard: str) -> dict[str, float]:
    """Merge in a process of its own, with the base model's files read just before, so that none waits for the disk."""
    for file in (root / "base").iterdir():
        with file.open("rb") as opened:
            while opened.read(1 << 24):
                pass
    command = [sys.executable, __file__, "--way", way, "--root", str(root), "--shard", shard]
    took = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    told = f"{took['peak_mb']:8.0f} MB peak {took['wall_s']:8.1f} s wall {took['cpu_s']:8.1f} s CPU"
    print(f"{way:10} {told}", file=sys.stderr, flush=True)
    return took


def compare(layers: int, rank: int, shard: str) -> dict[str, Any]:
    """Make model and adapter, merge both ways and compare."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make_base(root / "base", layers, shard)
        make_adapter(root / "adapter", root / "base", rank)
        files = sorted((root / "base").glob("*.safetensors"))
        facts: dict[str, Any] = {
            "parameters": sum(map(prod, Checkpoint(root / "base").shapes.values())),
            "files": len(files),
            "largest_file_mb": max(file.stat().st_size for file in files) / 1e6,
            **{way: measure(way, root, shard) for way in WAYS},
            "difference": differences(root),
        }
        facts["memory_ratio"] = facts["streaming"]["peak_mb"] / facts["peft"]["peak_mb"]
        return facts


def main() -> None:
    """Print the comparison, or merge one way for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--shard", default="250MB")
    parser.add_argument("--way", choices=WAYS, help="merge one way in --root and print what it took")
    parser.add_argument("--root", type=Path)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(merge(arguments.way, arguments.root, arguments.shard)))
        return
    facts = compare(arguments.layers, arguments.rank, arguments.shard)
    print(
        f"ratio of the peaks {facts['memory_ratio']:.3f}; {facts['files']} files, the largest"
        f" {facts['largest_file_mb']:.0f} MB; largest difference {facts['difference']['largest_ulp']:.2f} ulp",
        file=sys.stderr,
    )
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
