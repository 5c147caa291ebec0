"""Measure tokenising, packing and loading beside what others do with the same conversations.

Run it from anywhere: `python benchmarks/tokens.py --records 20000`. It makes its own conversations and trains its own
tokenizer, both seeded, needs no network and writes to a temporary folder. The table goes to standard error, JSON to
standard output. CPU seconds are those of the process and its children; ratios are within one run.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from tokens_others import others

from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import pack
from snaketune.data.templates.built_in_templates import BUILT_IN
from snaketune.data.tokens.token_store import TokenStore
from snaketune.data.tokens.tokenizing import Recipe, select_backend, tokenize_split

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SYLLABLES = (
    "ka",
    "lo",
    "mi",
    "ten",
    "ar",
    "us",
    "ion",
    "re",
    "sta",
    "vor",
    "el",
    "qui",
    "ban",
    "dor",
    "in",
    "ex",
    "per",
)
ROW_LENGTH, READS, BATCH = 2048, 100_000, 8


def make_conversations(path: Path, count: int, seed: int) -> None:
    """Write canonical records: made-up words by Zipf's law, 150 words each on average, one in five has two turns."""
    generator = np.random.default_rng(seed)
    words = np.asarray(["".join(generator.choice(SYLLABLES, generator.integers(1, 5))) for _ in range(20_000)])
    marks = np.asarray(["", "", "", "", "", ",", ".", ".\n", ":", "\n\n- "])

    def text(mean: float) -> str:
        size = int(np.clip(generator.lognormal(mean, 0.8), 4, 1000))
        chosen = words[np.minimum(generator.zipf(1.2, size), len(words)) - 1]
        return " ".join(np.char.add(chosen, marks[generator.integers(0, len(marks), size)])).strip()

    with path.open("wb") as file:
        for number in range(1, count + 1):
            turns = 1 + (number % 5 == 0)
            messages = [
                {"role": role, "content": text(mean)}
                for _ in range(turns)
                for role, mean in (("user", 3.2), ("assistant", 4.2))
            ]
            file.write(orjson.dumps({"source": 0, "line": number, "messages": messages}) + b"\n")


def make_model(folder: Path, records: Path) -> None:
    """Train a byte-level BPE tokenizer as Qwen's on the conversations and save it with a chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=16_000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    with records.open("rb") as lines:
        texts = [
            m["content"] for line, _ in zip(lines, range(3000), strict=False) for m in orjson.loads(line)["messages"]
        ]
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[2], "pad_token": SPECIAL[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": BUILT_IN["chatml"]}))


def measure(works: dict[str, Callable[[], tuple[int, int]]], repeats: int) -> list[dict[str, Any]]:
    """Return the medians of CPU and wall seconds of each work, which returns records and tokens; all take turns."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    counts: dict[str, tuple[int, int]] = {}
    for _ in range(repeats):
        for name, work in works.items():
            cpu, wall = cpu_seconds(), time.perf_counter()
            counts[name] = work()
            runs[name].append((cpu_seconds() - cpu, time.perf_counter() - wall))
    return [_result(name, counts[name], runs[name]) for name in works]


def _result(name: str, counts: tuple[int, int], runs: list[tuple[float, float]]) -> dict[str, Any]:
    cpu, wall = (median(column) for column in zip(*runs, strict=True))
    records, tokens = counts
    rates = {"records_per_cpu_second": round(records / cpu), "tokens_per_cpu_second": round(tokens / cpu)}
    seconds = {"cpu_s": round(cpu, 3), "wall_s": round(wall, 3)}
    return {"name": name, "records": records, "tokens": tokens, **seconds, **rates}


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def ours(recipe: Recipe, records: Path, output: Path, threads: int) -> Callable[[], tuple[int, int]]:
    """Return our tokenising of ``records``."""

    def work() -> tuple[int, int]:
        with open(os.devnull, "wb") as dropped:
            account, _ = tokenize_split("train", records, recipe, output, dropped, threads)
        return account.records, account.tokens

    return work


def tokenising(args: argparse.Namespace, folder: Path, records: Path, scratch: Path) -> tuple[list, list[str], dict]:
    """Return the measurements of tokenising, sentences about what is missing, and the facts of the gates."""
    cpu = cpu_seconds()
    recipe, facts = select_backend(Recipe(str(folder), BUILT_IN["chatml"], True), [records], args.threads)
    facts["gates_cpu_s"] = round(cpu_seconds() - cpu, 3)
    engines = ["tokenizers"] if facts["engine"] == "tokenizers" else ["fastokens", "tokenizers"]
    works = {
        f"snaketune, {engine}": ours(replace(recipe, engine=engine), records, scratch / engine, args.threads)
        for engine in engines
    }
    theirs, missing = others(folder, records, scratch)
    if len(engines) == 1:
        missing.append(f"fastokens is not measured: {facts['engine_gate']['reason']}.")
    return measure(works | theirs, args.repeats), missing, facts


def storage(folder: Path, scratch: Path, seed: int) -> dict[str, float]:
    """Return what the store, packing, writing and loading cost."""
    store, generator = TokenStore(folder), np.random.default_rng(seed)
    tokens = int(store.lengths.sum())
    found = {"bytes_per_token": round(sum(file.stat().st_size for file in folder.iterdir()) / tokens, 3)}
    places = generator.integers(0, len(store), READS).tolist()
    found["random_row_us"] = round(_seconds(lambda: [store.document(place) for place in places]) / READS * 1e6, 2)
    lengths = np.clip(generator.lognormal(5.6, 0.9, 500_000), 8, ROW_LENGTH).astype(np.int32)
    found["pack_500k_s"] = round(_seconds(lambda: pack(lengths, ROW_LENGTH)), 3)
    found["pack_500k_efficiency"] = round(int(lengths.sum()) / (len(pack(lengths, ROW_LENGTH)) * ROW_LENGTH), 6)
    plan = pack(np.minimum(store.lengths, ROW_LENGTH), ROW_LENGTH)
    path = scratch / "rows.arrow"
    seconds = _seconds(lambda: write_rows(path, store, plan, ROW_LENGTH, 0))
    found["write_rows_mb_per_cpu_second"] = round(path.stat().st_size / seconds / 1e6)
    rows = PackedRows(path)
    order = generator.permutation(len(rows)).tolist()
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    names = ("input_ids", "loss_mask", "position_ids")
    seconds = _seconds(lambda: [rows.take(name, batch) for batch in batches for name in names])
    found["loader_tokens_per_second"] = round(len(rows) * ROW_LENGTH / seconds)
    return found


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def table(found: list[dict[str, Any]]) -> str:
    """Return the measurements of tokenising as a table; each ratio is one of our engines to the line."""
    mine = [entry for entry in found if entry["name"].startswith("snaketune")]
    heads = "".join(f"{entry['name'].removeprefix('snaketune, '):>12}" for entry in mine)
    lines = [f"{'':34}{'records/CPU-s':>15}{'tokens/CPU-s':>15}{'wall s':>9}{heads}"]
    for entry in found:
        rates = f"{entry['records_per_cpu_second']:>15,}{entry['tokens_per_cpu_second']:>15,}{entry['wall_s']:>9.2f}"
        ratios = (one["records_per_cpu_second"] / entry["records_per_cpu_second"] for one in mine)
        lines.append(f"{entry['name']:34}{rates}" + "".join(f"{ratio:>11.1f}x" for ratio in ratios))
    return "\n".join(lines)


def main() -> None:
    """Make the data, measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000, help="conversations to make (default 20000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each case, of which the median counts")
    parser.add_argument("--threads", type=int, default=1, help="threads that our stage may use (default 1)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        records, folder = scratch / "records.jsonl", scratch / "model"
        make_conversations(records, args.records, args.seed)
        make_model(folder, records)
        found, missing, facts = tokenising(args, folder, records, scratch)
        stored = storage(scratch / facts["engine"], scratch, args.seed)
    print(table(found), *missing, *(f"{name}: {value:,}" for name, value in stored.items()), sep="\n", file=sys.stderr)
    result = {"arguments": vars(args), "tokenising": found, "not_measured": missing, "gates": facts, "storage": stored}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
