"""Train a real model on real text beside a plain Trainer with PEFT and packed TRL, all in one run.

    python benchmarks/real.py MODEL                                 the embedded example
    python benchmarks/real.py MODEL my.jsonl --columns question answer --documents 200
    python benchmarks/real.py MODEL my.jsonl --cases snaketune:rows=4 snaketune:rows=8

MODEL is a Hugging Face folder with a chat template, such as results/models/<id>/model of a run with
`model: {name_or_path: smollm2}`. Cases, options and rounds are those of `benchmarks/train.py`; all take the same
documents and, by default, about as many tokens a step: what fills 8 rows. A round takes about five minutes on two idle
cores by default. Beside the cases stand the memory that the plan predicts for ours, and the share of the machine's
measured matrix rate on the model's shapes that the operations of training are (4 a frozen weight and token, 6 a trained
one, attention of real documents). They count every token of every document. Ours computes common prefixes of a
micro-batch once, so that it fills its rows to more than 1, and leaves tokens without loss out of the output layer: the
share without both stands behind it. The table goes to standard error, JSON to standard output.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import numpy as np
from train import _disagreements, _measure, _medians, _present, _table, _versions
from train_workload import Texts, Workload, model_config

Document = tuple[np.ndarray, np.ndarray]
ROWS, PADDED_ROWS, REPEATS = 8, 4, 5
# Trained by default, in tokens, and at least this many steps.
TOKENS, STEPS = 8000, 4


def main() -> None:
    """Tokenise, measure all cases in turn and print what was found."""
    args = _parse()
    with tempfile.TemporaryDirectory() as folder:
        texts = Texts(list(enough(_documents(args), args)))
        texts.write(Path(folder) / "texts.npz")
        workload = _workload(args, len(texts) - args.held_out, Path(folder) / "texts.npz")
        cases, missing = _present(args.cases or equal_cases(texts.lengths.tolist(), args.row_length))
        load, rate = os.getloadavg()[0], matrix_rate(workload)
        rounds = _measure(cases, workload, args.repeats, missing)
        rate = max(rate, matrix_rate(workload))
        results = [_medians(case, rounds[case]) for case in cases if rounds[case]]
        operations = operations_per_token(model_config(workload), texts)
        results = [one | shares_of(one, operations, rate) for one in results]
        planned = planned_memory(workload, cases)
    doubts = _disagreements(results)
    print(_table(results), *_remarks(results, rate, planned), *missing, *doubts, sep="\n", file=sys.stderr)
    facts = {"workload": asdict(workload), "load": load, "versions": _versions(), "planned_memory_gb": planned}
    facts |= {"matrix_operations_per_cpu_second": rate, "results": results, "not_measured": missing, "doubts": doubts}
    print(json.dumps(facts, indent=2))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a Hugging Face model with a chat template")
    parser.add_argument("data", nargs="?", help="JSON lines (default: the embedded example)")
    parser.add_argument("--columns", nargs=2, default=("prompt", "completion"), metavar=("QUESTION", "ANSWER"))
    parser.add_argument("--cases", nargs="+", metavar="CASE[:OPTION=VALUE,...]", help="default: all, with equal steps")
    parser.add_argument("--documents", type=int, help=f"documents to train on, one epoch (default: {TOKENS:,} tokens)")
    parser.add_argument("--held-out", type=int, default=8, help="documents to score before and after")
    parser.add_argument("--row-length", type=int, default=256, help="tokens of a row, and the longest document")
    parser.add_argument("--warmup", type=int, default=1, help="optimizer steps before the clock starts")
    parser.add_argument("--repeats", type=int, default=1, help="rounds; medians of them count")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a case")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def enough(documents: Iterator[Document], args: argparse.Namespace) -> Iterator[Document]:
    """Yield what is trained, by default about ``TOKENS`` and enough for ``STEPS`` steps, then what is held out."""
    wanted = max(TOKENS, STEPS * ROWS * args.row_length)
    count = tokens = 0
    for document in documents:
        yield document
        count, tokens = count + 1, tokens + len(document[0])
        if count == args.documents or (not args.documents and tokens >= wanted):
            break
    yield from islice(documents, args.held_out)


def equal_cases(lengths: Sequence[int], row_length: int) -> list[str]:
    """Return the cases whose optimizer steps take about as many tokens, what ``ROWS`` full rows hold."""
    mean = sum(lengths) / len(lengths)
    padded = max(1, round(ROWS * row_length / (PADDED_ROWS * mean)))
    packed = ROWS // PADDED_ROWS
    return [
        f"plain:rows={PADDED_ROWS},accumulation={padded}",
        f"trl-packed:rows={PADDED_ROWS},accumulation={packed}",
        f"snaketune:rows={ROWS},accumulation=1",
    ]


def _workload(args: argparse.Namespace, documents: int, texts: Path) -> Workload:
    if documents < 1:
        raise SystemExit(f"{args.data}: there are not more than the {args.held_out} documents held out: give more.")
    return Workload(
        shape="",
        documents=documents,
        held_out=args.held_out,
        scale=1.0,
        longest=args.row_length,
        row_length=args.row_length,
        warmup=args.warmup,
        learning_rate=args.learning_rate,
        seed=args.seed,
        threads=args.threads,
        model=str(Path(args.model).resolve()),
        texts=str(texts),
    )


def _documents(args: argparse.Namespace) -> Iterator[Document]:
    """Yield the token ids and loss masks of the records that fit a row: the answer and what ends it are trained."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model, local_files_only=True)
    for question, answer in pairs(args.data, args.columns):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        before = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template(turns, return_dict=False)
        if ids[: len(before)] != before:
            raise SystemExit(f"{args.model}: the template does not continue its own prompt with the answer.")
        if len(ids) <= args.row_length:
            yield np.array(ids, np.int32), (np.arange(len(ids)) >= len(before)).astype(np.int8)


def pairs(data: str | None, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield questions and answers of a file of JSON lines, or of the embedded example where there is none."""
    if not data:
        from snaketune.data.quickstart import quickstart_lines

        lines: Any = quickstart_lines()
    else:
        lines = Path(data).read_bytes().splitlines()
    for line in lines:
        record = _record(line)
        if record is not None and all(isinstance(record.get(name), str) for name in columns):
            yield tuple(record[name] for name in columns)


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line; the embedded example has broken ones on purpose."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def matrix_rate(workload: Workload) -> float:
    """Return operations per CPU-second of torch.mm at the model's shapes and 2,048 tokens, weighted as in a layer."""
    import torch

    torch.set_num_threads(workload.threads)
    text = model_config(workload).get_text_config()
    hidden, inner, head = text.hidden_size, text.intermediate_size, text.hidden_size // text.num_attention_heads
    width = (getattr(text, "head_dim", None) or head) * text.num_attention_heads
    spent = operations = 0.0
    for inputs, outputs, count in ((hidden, inner, 2), (inner, hidden, 1), (hidden, width, 2)):
        x, weight = torch.randn(2048, inputs), torch.randn(outputs, inputs)
        best = min(_seconds(x, weight) for _ in range(REPEATS))
        spent, operations = spent + count * best, operations + count * 2 * 2048 * inputs * outputs
    return operations / spent


def _seconds(x: Any, weight: Any) -> float:
    began = time.process_time()
    x @ weight.t()
    return time.process_time() - began


def operations_per_token(config: Any, texts: Texts) -> dict[str, float]:
    """Return the operations of training per token, those of the output layer, and the share of tokens without loss."""
    from snaketune.plan.flops import model_flops, shape_of
    from snaketune.plan.memory.counting import lora_parameters

    shape, lora = shape_of(config), lora_parameters(config, {"r": 16, "target_modules": "all-linear"})
    lengths = texts.lengths.astype(np.int64)
    total = model_flops(shape, int(lengths.sum()), int((lengths**2).sum()), lora, False)
    untrained = sum(int((texts.document(index)[1] == 0).sum()) for index in range(len(texts)))
    head = 4 * shape.head_parameters
    return {"all": total / texts.tokens, "head": head, "untrained": untrained / texts.tokens}


def shares_of(result: dict[str, Any], operations: dict[str, float], rate: float) -> dict[str, float]:
    """Return the shares of the matrix rate that a case reaches: of all operations, and of those that ours computes."""
    per_second = result["tokens_per_cpu_second"] / rate
    # With shared prefixes there are fewer positions than tokens; padding is no work of the model.
    computed = min(1.0, 1 / result["real_share"])
    layers = operations["all"] - operations["head"]
    needed = layers * computed + operations["head"] * (1 - operations["untrained"])
    return {"share_of_matrix_rate": per_second * operations["all"], "share_of_needed": per_second * needed}


def planned_memory(workload: Workload, cases: list[str]) -> float | None:
    """Return the memory in GB that the plan predicts for our last case; None when there is none."""
    from train_cases import Case

    from snaketune.plan.memory.memory import memory_plan
    from snaketune.plan.memory_settings import AdapterSetting, MemorySetting

    ours = [Case.parse(case) for case in cases if case.partition(":")[0] == "snaketune"]
    if not ours:
        return None
    rows = ours[-1].number("rows", 2)
    setting = MemorySetting(workload.row_length, rows, AdapterSetting(), "float32", "", device="cpu")
    return round(memory_plan(model_config(workload), setting).total, 2)


def _remarks(results: list[dict[str, Any]], rate: float, planned: float | None) -> list[str]:
    shares = [f"{one['case']} {one['share_of_matrix_rate']:.0%} ({one['share_of_needed']:.0%})" for one in results]
    ours = next((one for one in reversed(results) if one["case"].startswith("snaketune")), None)
    remarks = [f"Operations of training, share of {rate / 1e9:.0f} GFLOP per CPU-second: {', '.join(shares)}."]
    if ours and planned:
        remarks.append(f"Memory of ours: {planned:.2f} GB planned, {ours['peak_memory_mb'] / 1e3:.2f} GB measured.")
        times = [
            f"{one['case']} {ours['tokens_per_cpu_second'] / one['tokens_per_cpu_second']:.2f}"
            for one in results
            if one is not ours
        ]
        remarks.append(f"Ours is so many times faster per CPU-second: {', '.join(times) or 'nothing to compare with'}.")
    return ["", *remarks]


if __name__ == "__main__":
    main()
