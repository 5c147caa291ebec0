"""A whole tiny run in this process: model, data, plan, training, merge with its gate, evaluation."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import torch
from tiny_models import configuration
from transformers import AutoTokenizer, PreTrainedConfig

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import SnaketuneError
from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import pack, wants_packing
from snaketune.data.tokens.token_store import TokenStore
from snaketune.evaluate.evaluation import EvaluationInputs, EvaluationSettings, evaluate
from snaketune.merge.merge_inputs import MergeInputs
from snaketune.merge.merging import merge_adapter
from snaketune.merge.verification.merge_gate import check_merged_folder
from snaketune.model.adapters.new_tokens import advice_on_tokens, untrained_tokens, with_token_numbers
from snaketune.model.architecture import auto_class
from snaketune.model.prepare import prepare_model
from snaketune.model.tiny.tiny_tokenizer import CHAT_TEMPLATE, train_tokenizer
from snaketune.model.tokenizer_only import TokenizerFolder, prepare_tokenizer
from snaketune.plan.devices.machine import Machine
from snaketune.plan.planning import PlanInputs, make_plan
from snaketune.train.checkpoints.weight_publishing import publish_weights
from snaketune.train.run import train
from snaketune.workflow.stages import slice_of

ROW = 32
SENTENCE = "the lamp in the kitchen goes on at seven and off at nine red green blue one two three"
RECORDS = [("lamp red", "on at seven"), ("kitchen two", "off"), ("blue", "nine three one"), ("one two", "green")]
SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "loss_mask": pa.list_(pa.int8()),
        **dict.fromkeys(("length", "bytes", "source"), pa.int32()),
        "record": pa.int64(),
    }
)
SETTINGS = {"save_steps": 4, "save_total_limit": 2, "hours_between_interruptions": 24.0, "max_loss_increase": None}
SETTINGS |= {"report_to": [], "dataloader_num_workers": 0, "dataloader_prefetch_factor": None}
SETTINGS |= {"dataloader_pin_memory": True, "gguf_converter": None}
NOW = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
MACHINE = Machine("here", None, 0, None, False, ram_gb=64.0, free_disk_gb=500.0)


@dataclass
class Trip:
    """How far a model came.

    Attributes:
        stage: the last one that was begun.
        error: the sentence that ended it, None when all went well.
        facts: what the stages found out, by stage.
        printed: all that was said.
    """

    stage: str = "build"
    error: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    printed: str = ""


def tokenizer() -> Any:
    """Return a byte-level tokenizer whose ids all are in the tiny vocabularies."""
    return train_tokenizer([SENTENCE] * 4, 300, 128)


def write_model(folder: Path, config: PreTrainedConfig, dtype: torch.dtype = torch.float32, seed: int = 1) -> Path:
    """Write a model of random weights, large enough that its answers differ, and the tokenizer."""
    model = random_model(config, seed)
    model.to(dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def random_model(config: PreTrainedConfig, seed: int = 1) -> Any:
    """Return a model of random weights, large enough that its answers differ."""
    torch.manual_seed(seed)
    model = auto_class(config).from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:
                weight.normal_(std=0.1)
    return model


def write_data(root: Path, packed: bool, records: list[tuple[str, str]], source: Path) -> None:
    """Write records, tokens and rows of the held-out split; they serve as training rows, too."""
    words, folder = AutoTokenizer.from_pretrained(source), root / "tokens" / "eval"
    folder.mkdir(parents=True)
    table: dict[str, list] = {name: [] for name in SCHEMA.names}
    lines = []
    for number, (question, answer) in enumerate(records):
        prompt, rest = (
            words(text, add_special_tokens=False)["input_ids"]
            for text in (f"<|bos|><|user|>{question}<|assistant|>", f"{answer}<|eos|>")
        )
        row = {"input_ids": prompt + rest, "loss_mask": [0] * len(prompt) + [1] * len(rest)}
        row |= {"length": len(prompt + rest), "bytes": len(answer), "record": number, "source": 0}
        for name, value in row.items():
            table[name].append(value)
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(orjson.dumps({"source": 0, "line": number + 1, "messages": turns}))
    (root / "eval.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (root / "tokens" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(pa.table(table, schema=SCHEMA))
    store = TokenStore(folder)
    length = ROW if packed else int(store.lengths.max())
    rows = pack(np.minimum(store.lengths, length), length) if packed else [[n] for n in range(len(store))]
    (root / "rows").mkdir()
    write_rows(root / "rows" / "eval.arrow", store, rows, length, 0)


def run_of(root: Path, changed: dict[str, Any], full: bool) -> Any:
    """Return the resolved configuration of a run of a step or two."""
    values: dict[str, Any] = {
        "data": {"sources": ["a.jsonl"]},
        "model": {"name_or_path": str(root / "source")},
        "adapter": {"type": "none"} if full else {"r": 2, "lora_alpha": 4},
        "train": {
            "max_steps": 2,
            "logging_steps": 1,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "cpu_threads": 1,
            "eval_steps": 0,
        },
        "evaluate": {"max_samples": 2, "max_new_tokens": 3},
    }
    for section, keys in changed.items():
        values[section] = {**values.get(section, {}), **keys}
    return resolve_runs(Layer("config.yaml", values), {}, "nowhere")[0].config


Records = list[tuple[str, str]]
Model = PreTrainedConfig | str | Callable[[Path], object]


def write_source(folder: Path, model: Model) -> None:
    """Write the model that a run starts from: of a configuration, of a kind, or as a function does it."""
    if isinstance(model, str | PreTrainedConfig):
        write_model(folder, configuration(model) if isinstance(model, str) else model)
    else:
        model(folder)


class Traveller:
    """The stages of one run, one method each, in ``root``."""

    def __init__(self, root: Path, model: Model, full: bool, packed: bool, records: Records, changed: dict[str, Any]):
        self.root, self.packed, self.records = root, packed, records
        write_source(root / "source", model)
        self.config = run_of(root, changed, full)
        self.model: dict[str, Any] = {}

    def prepare(self) -> dict[str, Any]:
        cfg, folder = slice_of(self.config, "prepare_model")["model"], self.root / "tokenizer"
        tokenizer = TokenizerFolder(folder, prepare_tokenizer(cfg, folder))
        self.model = prepare_model(cfg, self.root / "model", tokenizer)
        self.packed = wants_packing(self.packed, self.model["nature"]["packing"])
        write_data(self.root, self.packed, self.records, self.root / "source")
        self.rows = PackedRows(self.root / "rows" / "eval.arrow")
        return self.model

    def plan(self) -> dict[str, Any]:
        split = {"rows": len(self.rows), "documents": len(self.records), "tokens": len(self.records) * 16}
        pack_facts = {"row_length": self.rows.row_length, "packing": self.packed, "files": {}}
        cfg, folder = slice_of(self.config, "plan_run"), self.root / "model"
        cfg |= {"adapter": with_token_numbers(cfg["adapter"], folder)}
        given = PlanInputs(
            cfg=cfg,
            settings=SETTINGS,
            rightsize={"histogram": [{"from": 0, "to": 33, "records": len(self.records)}], "max_length": ROW}
            | {"on_too_long": "drop", "longest": 30, "model_context": 128},
            pack={**pack_facts, "splits": {"train": split, "eval": split}},
            model={**self.model, "files": {}},
            model_folder=folder,
            token_advice=advice_on_tokens(lambda: self.rows, lambda: untrained_tokens(folder), cfg["adapter"]),
            results=self.root / "results",
            own=self.root / "results" / "own",
            machine=MACHINE,
            now=NOW,
        )
        return make_plan(given)

    def train(self) -> dict[str, Any]:
        cfg = slice_of(self.config, "train_model")
        finished = train(self.root / "model", self.rows, self.rows, cfg, SETTINGS, self.root / "work")
        publish_weights(finished.checkpoint, self.root / "adapter", self.root / "model", "org/model", None)
        return finished.info["engine"]

    def merge(self) -> dict[str, Any]:
        material = MergeInputs(
            self.root / "model",
            self.root / "adapter",
            self.root / "tokens" / "chat_template.jinja",
            (self.root / "rows" / "eval.arrow",),
        )
        cfg = slice_of(self.config, "merge_adapter")
        return merge_adapter(material, cfg, self.root / "merged", gate=check_merged_folder)

    def evaluate(self) -> dict[str, Any]:
        material = EvaluationInputs(
            self.root / "model",
            self.root / "adapter",
            self.root / "merged",
            self.root / "tokens",
            self.root / "rows" / "eval.arrow",
            self.root / "eval.jsonl",
        )
        return evaluate(material, EvaluationSettings.of_slice(slice_of(self.config, "evaluate_model"))).facts


STAGES = ("prepare", "plan", "train", "merge", "evaluate")


def take(
    root: Path, model: Model, /, full: bool = False, packed: bool = True, records: Records = RECORDS, **changed: Any
) -> Trip:
    """Take a model through all stages and return how far it came; anything but our own errors is raised."""
    trip, said = Trip(), io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            traveller = Traveller(root, model, full, packed, records, changed)
            for trip.stage in STAGES:
                trip.facts[trip.stage] = getattr(traveller, trip.stage)()
        except SnaketuneError as error:
            trip.error = f"{type(error).__name__}: {error}"
        finally:
            trip.printed = said.getvalue()
    return trip
