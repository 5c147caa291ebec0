"""A whole tiny run on disk for tests: model, adapter, tokenised and packed held-out data; nothing is downloaded."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from snaketune.data.rows.packed_rows import write_rows
from snaketune.data.rows.packing import pack
from snaketune.data.tokens.token_store import TokenStore
from snaketune.model.tiny.tiny_tokenizer import CHAT_TEMPLATE, train_tokenizer

ROW_LENGTH = 64
COLUMNS = {
    "input_ids": pa.list_(pa.int32()),
    "loss_mask": pa.list_(pa.int8()),
    "length": pa.int32(),
    "bytes": pa.int32(),
    "record": pa.int64(),
    "source": pa.int32(),
}
SENTENCE = "the lamp in the kitchen goes on at seven and off at nine red green blue one two three"
WORDS = SENTENCE.split()


@dataclass(frozen=True)
class TinyRun:
    """The paths of a tiny run, laid out as the workflow lays them out."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    @property
    def rows(self) -> Path:
        return self.root / "rows" / "eval.arrow"

    @property
    def records(self) -> Path:
        return self.root / "eval.jsonl"


def llama(vocab_size: int, **changes) -> LlamaForCausalLM:
    """Return a random Llama of two layers, with weights large enough that its answers differ."""
    torch.manual_seed(1)
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()


def save_adapter(model, folder: Path, **changes) -> None:
    """Wrap ``model`` in a random adapter and save that."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    torch.manual_seed(2)
    tuned = get_peft_model(model, LoraConfig(**(settings | changes)))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    tuned.save_pretrained(folder)


def conversations(count: int) -> list[dict]:
    """Return records of one question and one answer with lengths that differ."""
    rng = np.random.default_rng(0)
    made = []
    for line in range(count):
        question, answer = (" ".join(rng.choice(WORDS, size)) for size in rng.integers(1, 9, 2))
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        made.append({"source": 0, "line": line + 1, "messages": turns})
    return made


def write_run(root: Path, records: list[dict], dtype: torch.dtype = torch.float32, **llama_changes) -> TinyRun:
    """Write a tiny run that holds out ``records``."""
    run = TinyRun(root)
    tokenizer = train_tokenizer([" ".join(WORDS)] * 4, 300, 128)
    model = llama(len(tokenizer), **llama_changes).to(dtype)
    model.save_pretrained(run.model)
    tokenizer.save_pretrained(run.model)
    save_adapter(model, run.adapter)
    write_data(run, records)
    return run


def write_data(run: TinyRun, records: list[dict], row_length: int = ROW_LENGTH) -> None:
    """Write records, tokens and packed rows of the held-out split."""
    run.records.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    (run.tokens / "eval").mkdir(parents=True, exist_ok=True)
    schema = pa.schema(list(COLUMNS.items()))
    columns = list(zip(*(tokenized(record, tokenizer) for record in records), strict=True)) or [[], [], []]
    ids, masks, sizes = columns
    lengths, numbers = [len(tokens) for tokens in ids], range(len(records))
    table = pa.table([ids, masks, lengths, sizes, list(numbers), [0] * len(records)], schema=schema)
    path = run.tokens / "eval" / "data-00000-of-00001.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table)
    is_text = all("text" in record for record in records)
    (run.tokens / "chat_template.jinja").write_text("" if is_text else CHAT_TEMPLATE)
    store = TokenStore(run.tokens / "eval")
    run.rows.parent.mkdir(exist_ok=True)
    rows = pack(np.minimum(store.lengths, row_length), row_length) if len(store) else []
    write_rows(run.rows, store, rows, row_length, 0)


def tokenized(record: dict, tokenizer) -> tuple[list[int], list[int], int]:
    """Return token ids, the mask of those that are trained, and the bytes of the trained text."""
    if "text" in record:
        ids = [1, *tokenizer(record["text"], add_special_tokens=False)["input_ids"], 2]
        return ids, [0] + [1] * (len(ids) - 1), len(record["text"].encode())
    question, answer = (turn["content"] for turn in record["messages"])
    before, after = f"<|bos|><|user|>{question}<|assistant|>", f"{answer}<|eos|>"
    prompt, rest = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after))
    return prompt + rest, [0] * len(prompt) + [1] * len(rest), len(answer.encode())
