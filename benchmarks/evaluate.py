"""Greedy answers as `evaluate` makes them beside plain transformers: the same requests, batches and stops, in one run.

    python benchmarks/evaluate.py MODEL                             60 requests of the embedded example
    python benchmarks/evaluate.py MODEL --adapter FOLDER --data my.jsonl --columns question answer

MODEL is a Hugging Face folder with a chat template. Plain is `generate()` of transformers (PEFT's model where there is
an adapter), prompts padded on the left in the order in which they come. Both take turns in one process; the least
CPU-seconds of each count. The model that plays the tuned one has an adapter of random numbers unless one is named.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import torch
from peft import LoraConfig, get_peft_model
from real import pairs
from train_cases import LORA
from transformers import AutoModelForCausalLM, AutoTokenizer

from snaketune.evaluate.answers.generating import Decoding, generate_answers
from snaketune.evaluate.answers.prompts import Prompt, own_stops
from snaketune.evaluate.models import ModelSettings, attach_adapter, load_model, with_faster_layers

KINDS = ("base", "tuned")


def main() -> None:
    """Answer all requests both ways, in turn, and print the ratios."""
    args = _parse()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model, local_files_only=True)
    prompts = list(islice(_prompts(args, tokenizer), args.requests))
    plain, ours = _plain_model(args), with_faster_layers(_with_adapter(args, load_model(args.model, _settings(args))))
    decoding = Decoding(args.max_new_tokens, args.batch_size, tuple(own_stops(plain)), tokenizer.pad_token_id)
    ways: dict[str, Callable[[], list[str]]] = {
        "plain": lambda: plain_answers(plain, tokenizer, prompts, decoding),
        "ours": lambda: generate_answers(ours, tokenizer, prompts, decoding).texts,
    }
    found = {}
    for kind in args.models:
        with torch.no_grad(), _switched(plain, kind), _switched(ours, kind):
            found[kind] = _compared(ways, args.repeats)
        print(_sentence(kind, found[kind]), file=sys.stderr, flush=True)
    print(json.dumps({"requests": len(prompts), **vars(args), "results": found}, indent=2))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a Hugging Face model with a chat template")
    parser.add_argument("--adapter", help="folder of a PEFT adapter")
    parser.add_argument("--data", help="JSON lines (default: the embedded example)")
    parser.add_argument("--columns", nargs=2, default=("prompt", "completion"), metavar=("QUESTION", "ANSWER"))
    parser.add_argument("--models", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64, help="as evaluate.batch_size")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _settings(args: argparse.Namespace) -> ModelSettings:
    return ModelSettings(cpu_threads=args.threads)


def _prompts(args: argparse.Namespace, tokenizer: Any) -> Iterator[Prompt]:
    for number, (question, answer) in enumerate(pairs(args.data, args.columns)):
        turns = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        yield Prompt(number, text, tuple(tokenizer(text, add_special_tokens=False).input_ids), answer)


def _plain_model(args: argparse.Namespace) -> Any:
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, local_files_only=True)
    return _with_adapter(args, model.eval())


def _with_adapter(args: argparse.Namespace, model: Any) -> Any:
    if args.adapter:
        return attach_adapter(model, args.adapter)
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(**LORA)).eval()
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1e-3)
    return tuned


def _switched(model: Any, kind: str) -> Any:
    return model.disable_adapter() if kind == "base" else torch.no_grad()


def plain_answers(model: Any, tokenizer: Any, prompts: list[Prompt], decoding: Decoding) -> list[str]:
    """Return the answers as a script that batches `generate()` gets them."""
    tokenizer.padding_side = "left"
    answers: list[str] = []
    for start in range(0, len(prompts), decoding.batch_size):
        texts = [prompt.text for prompt in prompts[start : start + decoding.batch_size]]
        inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        stops, limit = list(decoding.stop_ids), decoding.max_new_tokens
        made = model.generate(**inputs, max_new_tokens=limit, do_sample=False, eos_token_id=stops)
        answers += tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def _compared(ways: dict[str, Callable[[], list[str]]], repeats: int) -> dict[str, Any]:
    least = dict.fromkeys(ways, float("inf"))
    answers: dict[str, list[str]] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.process_time()
            answers[name] = way()
            least[name] = min(least[name], time.process_time() - began)
    different = sum(one != other for one, other in zip(answers["plain"], answers["ours"], strict=True))
    return {"cpu_seconds": least, "ratio": least["plain"] / least["ours"], "different_answers": different}


def _sentence(kind: str, one: dict[str, Any]) -> str:
    plain, ours = one["cpu_seconds"]["plain"], one["cpu_seconds"]["ours"]
    times = f"plain {plain:.1f}, ours {ours:.1f} CPU-seconds: {one['ratio']:.2f} times as fast"
    return f"{kind}: {times}, {one['different_answers']} answers differ"


if __name__ == "__main__":
    main()
