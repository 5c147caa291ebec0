"""Measure what merging into 16-bit weights costs: rounded to nearest, as PEFT merges, and rounded stochastically.

Run it from anywhere: `python benchmarks/merge_rounding.py MODEL DATA.jsonl --work FOLDER`. MODEL is the folder of a
causal language model with a chat template, DATA a file of records with two texts (`--columns question answer`). An
adapter of rank 16 is trained with plain PyTorch and PEFT and kept after each number of `--steps`, for the next time as
well. It is merged each way; loss and KL divergence are those of the answers of held-out records, computed in float32
whatever format the weights are stored in. The table goes to standard error, JSON to standard output.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from snaketune.merge.adapter import read_adapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.rounding import NEAREST, STOCHASTIC, Rounding
from snaketune.merge.with_peft import merge_with_peft

WAYS = {"nearest": Rounding(NEAREST), **{f"stochastic {seed}": Rounding(STOCHASTIC, seed) for seed in range(3)}}
RECORDS_A_STEP = 8
LONGEST = 512
Row = tuple[torch.Tensor, int]
Weights = dict[str, torch.Tensor]


def read_rows(model: Path, data: Path, columns: tuple[str, str], count: int) -> list[Row]:
    """Return the token ids of the first ``count`` records, shape [1, length], and where each answer begins."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    with data.open(encoding="utf-8") as file:
        for line, _ in zip(file, range(count), strict=False):
            question, answer = (json.loads(line)[name] for name in columns)
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            asked = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
            whole = tokenizer.apply_chat_template(turns, tokenize=False)
            start = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
            ids = tokenizer(whole, add_special_tokens=False)["input_ids"][:LONGEST]
            rows.append((torch.tensor([ids]), start))
    return rows


def load(folder: Path) -> Any:
    """Return the model in ``folder`` in float32, which holds every 16-bit weight exactly."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def answer_logits(model: Any, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities at the tokens of the answer, shape [tokens, vocabulary], and those tokens."""
    ids, start = row
    logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1].float()
    return torch.log_softmax(logits, dim=1), ids[0, start:]


def train(model: Path, rows: list[Row], steps: list[int], rate: float, dora: bool, work: Path) -> list[Path]:
    """Train an adapter with as many steps as the largest of ``steps`` and keep it after each of them."""
    folders = [work / f"{'dora' if dora else 'lora'}-{step}" for step in steps]
    if all((folder / "adapter_config.json").is_file() for folder in folders):
        return folders
    torch.manual_seed(0)
    settings = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=dora)
    tuned: Any = get_peft_model(load(model), settings).train()
    optimizer = torch.optim.AdamW([weight for weight in tuned.parameters() if weight.requires_grad], lr=rate)
    for step in range(1, max(steps) + 1):
        batch = [rows[(RECORDS_A_STEP * (step - 1) + number) % len(rows)] for number in range(RECORDS_A_STEP)]
        tokens, total = sum(row[0].shape[1] - row[1] for row in batch), 0.0
        for row in batch:
            values, targets = answer_logits(tuned, row)
            loss = -values.gather(1, targets[:, None]).sum() / tokens
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: loss {total:.4f}", file=sys.stderr, flush=True)
        if step in steps:
            tuned.save_pretrained(folders[steps.index(step)])
    return folders


def exact_sums(model: Path, adapter: Path) -> tuple[Weights, Weights]:
    """Return the weights that the adapter changes, float32: as they are in the base model, and with the change."""
    merged = merge_with_peft(model, read_adapter(adapter), torch.float32, trust=False).model
    base, sums = Checkpoint(model), {}
    for name, weight in merged.named_parameters():
        if not torch.equal(weight, base.tensor(name).float()):
            sums[name] = weight.detach()
    return {name: base.tensor(name).float() for name in sums}, sums


def merged_by_peft(model: Path, adapter: Path, dtype: torch.dtype, names: list[str]) -> Weights:
    """Return what PEFT's own merge in ``dtype`` makes of those weights, float32."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    merged: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    weights = dict(merged.named_parameters())
    return {name: weights[name].detach().float() for name in names}


@torch.no_grad()
def put(model: Any, weights: Weights) -> None:
    """Put ``weights`` into ``model``."""
    own = dict(model.named_parameters())
    for name, weight in weights.items():
        own[name].copy_(weight)


@torch.no_grad()
def read(model: Any, rows: list[Row], expected: list[torch.Tensor] | None) -> tuple[dict[str, float], list]:
    """Return the loss of the answers, the KL divergence from ``expected`` and the log-probabilities themselves."""
    found, loss, divergence, tokens = [], 0.0, 0.0, 0
    for number, row in enumerate(rows):
        values, targets = answer_logits(model, row)
        loss -= float(values.gather(1, targets[:, None]).sum())
        tokens += len(targets)
        if expected is None:
            found.append(values)
        else:
            divergence += float((expected[number].exp() * (expected[number] - values)).double().sum())
    return {"loss": loss / tokens, "kl": divergence / tokens}, found


def compare(model: Path, adapter: Path, rows: list[Row], formats: list[str]) -> list[dict[str, Any]]:
    """Return one line per way to merge, the base and the tuned model first."""
    before, sums = exact_sums(model, adapter)
    loaded, lines = load(model), []

    def add(way: str, weights: Weights, dtype: str) -> None:
        put(loaded, weights)
        facts, _ = read(loaded, rows, expected)
        moved = sum(int((weights[name] != before[name]).sum()) for name in weights)
        share = moved / sum(weight.numel() for weight in weights.values())
        lines.append({"adapter": adapter.name, "way": way, "dtype": dtype, **facts, "moved": share})
        print(
            f"{adapter.name:8} {dtype:9} {way:14} {facts['loss']:.4f} {facts['kl']:.1e} {share:5.0%}", file=sys.stderr
        )

    put(loaded, sums)
    tuned, expected = read(loaded, rows, None)
    print(f"{adapter.name:8} {'float32':9} {'tuned':14} {tuned['loss']:.4f}", file=sys.stderr)
    lines.append({"adapter": adapter.name, "way": "tuned", "dtype": "float32", "loss": tuned["loss"]})
    add("base", before, "float32")
    for name in formats:
        dtype = getattr(torch, name)
        for label, rounding in WAYS.items():
            add(label, {key: rounding.apply(sums[key], dtype, key).float() for key in sums}, name)
        add("peft", merged_by_peft(model, adapter, dtype, list(sums)), name)
    return lines


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--columns", nargs=2, default=("question", "answer"))
    parser.add_argument("--steps", type=int, nargs="+", default=[6, 30])
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--read", type=int, default=40, help="how many of the held-out records are read")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--formats", nargs="+", default=["bfloat16"], choices=["bfloat16", "float16"])
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    count = given.held_out + RECORDS_A_STEP * max(given.steps)
    rows = read_rows(given.model, given.data, tuple(given.columns), count)
    held_out, training = rows[: min(given.held_out, given.read)], rows[given.held_out :]
    adapters = train(given.model, training, given.steps, given.learning_rate, given.dora, given.work)
    found = [line for adapter in adapters for line in compare(given.model, adapter, held_out, given.formats)]
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
