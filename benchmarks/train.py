"""Measure training beside a plain Trainer script and TRL: same model, documents and device, one process per case.

    python benchmarks/train.py --quick                    about a minute on a CPU
    python benchmarks/train.py                            minutes on a CPU, all lengths a quarter of the real ones
    python benchmarks/train.py --shape 8b --repeats 2     on a GPU: LoRA in bfloat16 on a Llama of random weights

Rounds run all cases in turn and each next round starts with another one; medians of the rounds count. Real tokens per
second never count padding, and the clock starts after the warm-up. A case takes options after a colon, for example
`--cases snaketune snaketune:compile=on snaketune:attention=varlen,rows=4 trl-packed:compile=on`. From a bare checkout
it needs torch, transformers, peft, accelerate, pyarrow and numpy; what else is missing is left out and named.
The table (Markdown) goes to standard error, JSON to standard output.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from train_workload import LONGEST, ROW_LENGTH, SHAPES, Workload

DEFAULT_CASES = ("plain", "trl", "trl-packed", "snaketune")
TITLES = {
    "plain": "plain HF Trainer script, 2 x 8, padded to the longest allowed",
    "trl": "TRL SFTTrainer at its defaults",
    "trl-packed": "TRL, packed, padding-free, fused head, no checkpointing",
    "snaketune": "snaketune `fast`",
}
NEEDED = {"trl": ("trl", "datasets"), "trl-packed": ("trl", "datasets")}
# As rules/train.smk starts a training.
MALLOC = ["hugetlb=1", "trim_threshold=1099511627776", "mmap_threshold=33554432"]
KEPT_MEMORY = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{setting}" for setting in MALLOC)}
VERSIONED = ("torch", "transformers", "peft", "accelerate", "trl")
# Share of what was learned by which held-out losses may differ: steps of different documents learn differently.
AGREEING_LOSS = 0.2


def main() -> None:
    """Measure all cases and print what was found, or run the one case of this process."""
    args = _parse()
    if args.child:
        from train_cases import Case
        from train_measure import run_case

        print(json.dumps(run_case(Case.parse(args.child), Workload(**json.loads(args.workload)))))
        return
    workload = _workload(args)
    cases, missing = _present(args.cases)
    load, rounds = os.getloadavg()[0], _measure(cases, workload, args.repeats, missing)
    results = [_medians(name, rounds[name]) for name in cases if rounds[name]]
    doubts = _disagreements(results)
    print(_table(results), "", *missing, *doubts, sep="\n", file=sys.stderr)
    facts = {"workload": asdict(workload), "repeats": args.repeats, "load": load, "versions": _versions()}
    print(json.dumps({**facts, "results": results, "not_measured": missing, "doubts": doubts}, indent=2))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="default tiny on a CPU, 1b on a GPU")
    parser.add_argument("--quick", action="store_true", help="a very small model, one round: does it run at all?")
    parser.add_argument("--cases", nargs="+", default=list(DEFAULT_CASES), metavar="CASE[:OPTION=VALUE,...]")
    parser.add_argument("--repeats", type=int, help="rounds (default 3, 1 with --quick)")
    parser.add_argument("--documents", type=int, help="documents to train on, one epoch")
    parser.add_argument("--scale", type=float, help="all lengths times this (default 1 on a GPU, 0.25 on a CPU)")
    parser.add_argument("--row-length", type=int, help=f"tokens of a packed row (default {ROW_LENGTH} times the scale)")
    parser.add_argument("--lengths", default="", help="file of real lengths: numbers, or JSON records")
    parser.add_argument("--warmup", type=int, default=2, help="optimizer steps before the clock starts (default 2)")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a case (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--workload", help=argparse.SUPPRESS)
    return parser.parse_args()


def _workload(args: argparse.Namespace) -> Workload:
    import torch

    has_gpu = torch.cuda.is_available()
    args.repeats = args.repeats or (1 if args.quick else 3)
    scale = args.scale or (1.0 if has_gpu else 0.0625 if args.quick else 0.25)
    return Workload(
        shape=args.shape or ("quick" if args.quick else "1b" if has_gpu else "tiny"),
        documents=args.documents or (96 if args.quick else 512 if has_gpu else 256),
        held_out=16 if args.quick else 32,
        scale=scale,
        longest=round(LONGEST * scale),
        row_length=args.row_length or round(ROW_LENGTH * scale),
        warmup=args.warmup,
        learning_rate=args.learning_rate,
        seed=args.seed,
        threads=args.threads,
        lengths=args.lengths,
    )


def _present(cases: list[str]) -> tuple[list[str], list[str]]:
    """Return the cases whose packages are installed, and a sentence for each of the others."""
    lacking = {case: [name for name in NEEDED.get(_kind(case), ()) if find_spec(name) is None] for case in cases}
    missing = [
        f"{case} is not measured: {' and '.join(names)} {'is' if len(names) == 1 else 'are'} not installed."
        for case, names in lacking.items()
        if names
    ]
    return [case for case, names in lacking.items() if not names], missing


def _kind(case: str) -> str:
    kind = case.partition(":")[0]
    if kind not in TITLES:
        raise SystemExit(f"--cases: {case!r} is none of {', '.join(TITLES)}: correct the name before the colon.")
    return kind


def _measure(cases: list[str], workload: Workload, repeats: int, missing: list[str]) -> dict[str, list[dict]]:
    """Return the results of each case by round; cases that fail are left out of later rounds and named."""
    found: dict[str, list[dict]] = {case: [] for case in cases}
    failed: set[str] = set()
    for number in range(repeats):
        turn = number % max(1, len(cases))
        for case in cases[turn:] + cases[:turn]:
            if case in failed:
                continue
            result = _run(case, workload)
            if isinstance(result, str):
                failed.add(case)
                missing.append(f"{case} failed: {result}")
                continue
            found[case].append(result)
            print(
                f"round {number + 1}: {case}: {result['tokens_per_second']:,.0f} tokens/s", file=sys.stderr, flush=True
            )
    return found


def _run(case: str, workload: Workload) -> dict[str, Any] | str:
    """Run one case in a process of its own and return its result, or the last line of its error."""
    command = [sys.executable, __file__, "--child", case, "--workload", json.dumps(asdict(workload))]
    environment = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(workload.threads), **os.environ}
    if case.partition(":")[0] == "snaketune":
        environment |= KEPT_MEMORY
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ended.returncode:
        return (ended.stderr.strip().splitlines() or [f"it ended with code {ended.returncode}"])[-1]
    return json.loads(ended.stdout.strip().splitlines()[-1])


def _medians(case: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    measured = ("tokens_per_second", "tokens_per_cpu_second", "mfu", "peak_memory_mb", "seconds")
    middle = {key: median(one[key] for one in results) for key in measured if results[0][key] is not None}
    return {**results[-1], **middle, "rounds": [one["tokens_per_second"] for one in results]}


def _disagreements(results: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for whatever shows that cases did not train the same thing."""
    doubts = []
    for key in ("documents_trained", "tokens_trained", "loss_before"):
        values = {result["case"]: result[key] for result in results}
        if values and max(values.values()) - min(values.values()) > 1e-3 * max(values.values()) * (
            key == "loss_before"
        ):
            doubts.append(f"The cases differ in {key}, so they cannot be compared: {values}.")
    learned = [result["loss_before"] - result["loss_after"] for result in results]
    if learned and max(learned) - min(learned) > AGREEING_LOSS * max(learned):
        values = {result["case"]: result["loss_after"] for result in results}
        doubts.append(f"The held-out losses after the same tokens differ: {values}.")
    return doubts


def _table(results: list[dict[str, Any]]) -> str:
    """Return a Markdown table; the last column says how many times faster the last snaketune default is."""
    ours = next((one for one in reversed(results) if one["case"] == "snaketune"), None)
    lines = [
        "| case | real tokens/s | per CPU-s, or MFU | real share | peak MB | held-out loss, before → after | ours is |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results:
        kind, _, options = one["case"].partition(":")
        title = TITLES[kind] + (f" ({options})" if options else "")
        ratio = f"{ours['tokens_per_second'] / one['tokens_per_second']:.2f}x" if ours else ""
        lines.append(
            f"| {title} | {one['tokens_per_second']:,.0f} | {_use(one)} | {one['real_share']:.3f}"
            f" | {one['peak_memory_mb']:,.0f} | {one['loss_before']:.3f} → {one['loss_after']:.3f} | {ratio} |"
        )
    return "\n".join(lines)


def _use(one: dict[str, Any]) -> str:
    if one["device"] == "cpu":
        return f"{one['tokens_per_cpu_second']:,.0f}"
    return "unknown" if one["mfu"] is None else f"{one['mfu']:.1%}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
