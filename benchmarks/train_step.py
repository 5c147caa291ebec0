"""Where the time of one training step on a CPU goes, and what our layers save: forward and backward of a real model.

    python benchmarks/train_step.py MODEL                 CPU-seconds of PEFT's layers and ours in turn, three times
    python benchmarks/train_step.py MODEL --profile peft  shares of the operations in one step: peft or ours

MODEL is a Hugging Face folder. Rows hold three documents of random tokens, of which half are trained.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from train_cases import LORA
from transformers import AutoModelForCausalLM

from snaketune.train.batches import with_boundaries
from snaketune.train.kernels.attention import VARLEN, register_varlen
from snaketune.train.kernels.chunked_cross_entropy import put_chunked_loss
from snaketune.train.kernels.cpu_attention import attend_by_document
from snaketune.train.kernels.fused_layers import fuse_layers

KINDS = ("peft", "ours")
# Shares of a row that its documents take, and of a document that its prompt takes.
DOCUMENTS, PROMPT = (0.47, 0.35, 0.18), 0.5
PRODUCTS = ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise")


def main() -> None:
    """Print tokens per CPU-second of both, or the shares of one."""
    args = _parse()
    torch.set_num_threads(args.threads)
    register_varlen(attend_by_document)
    names = [args.profile] if args.profile else KINDS
    models = {name: build(args.model, name) for name in names}
    batch = rows(args, next(iter(models.values())).config.vocab_size)
    for name, model in models.items():
        step(model, batch, name)
    if args.profile:
        print(*shares(models[args.profile], batch, args.profile), sep="\n")
        return
    for number in range(args.repeats):
        rates = {name: args.rows * args.row_length / step(model, batch, name) for name, model in models.items()}
        listed = ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
        print(f"round {number + 1}: {listed} tokens per CPU-second: {rates['ours'] / rates['peft']:.2f}x", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a Hugging Face model")
    parser.add_argument("--profile", choices=KINDS, help="show where the time goes instead")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--row-length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def build(folder: str, kind: str) -> Any:
    """Return the model with its adapter: as PEFT and transformers have it with a chunked loss, or as we train it."""
    torch.manual_seed(0)
    kernel = VARLEN if kind == "ours" else "sdpa"
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=kernel)
    model = get_peft_model(base, LoraConfig(**LORA))
    if kind == "ours":
        fuse_layers(model)
    put_chunked_loss(model)
    return model.train()


def rows(args: argparse.Namespace, vocabulary: int) -> dict[str, torch.Tensor]:
    """Return a batch of packed rows."""
    lengths = [int(share * args.row_length) for share in DOCUMENTS[:-1]]
    lengths.append(args.row_length - sum(lengths))
    positions = torch.cat([torch.arange(length) for length in lengths])
    trained = torch.cat([torch.arange(length) >= PROMPT * length for length in lengths])
    ids = torch.randint(0, vocabulary, (args.rows, args.row_length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "position_ids": positions.expand_as(ids), "labels": ids.masked_fill(~trained, -100)}


def step(model: Any, batch: dict[str, torch.Tensor], kind: str) -> float:
    """Do a forward and a backward pass and return its CPU-seconds."""
    given = with_boundaries(batch) if kind == "ours" else batch
    model.zero_grad(set_to_none=True)
    began = time.process_time()
    model(**given, use_cache=False).loss.backward()
    return time.process_time() - began


def shares(model: Any, batch: dict[str, torch.Tensor], kind: str) -> list[str]:
    """Return lines that say which share of the step each group of operations takes, the largest first."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        step(model, batch, kind)
    spent: Counter[str] = Counter()
    for event in seen.key_averages(group_by_input_shape=True):
        spent[_group(event.key, event.input_shapes, model.config.vocab_size)] += event.self_cpu_time_total
    total = spent.total()
    return [f"{group:<40}{time / total:6.1%}" for group, time in spent.most_common()]


def _group(operation: str, shapes: list[list[int]], vocabulary: int) -> str:
    sizes = [size for shape in shapes for size in shape or ()]
    if vocabulary in sizes:
        return "output layer and loss"
    if operation.startswith(PRODUCTS):
        return "products of the adapter" if LORA["r"] in sizes else "products of the base model"
    return "attention" if "attention" in operation or "Documents" in operation else "norms, gates, sums and the rest"


if __name__ == "__main__":
    main()
