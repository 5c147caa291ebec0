"""The cases of `benchmarks/train.py`: each builds a trainer over the same documents for the same model.

A case is a name and, after a colon, what differs from its defaults: `snaketune:compile=off,attention=varlen`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import Dataset
from train_workload import PAD, Corpus, Workload, model_config
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator

from snaketune.train.device import Device

IGNORED = -100
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@dataclass(frozen=True, slots=True)
class Case:
    """A case and its options, all of them text as on the command line."""

    name: str
    kind: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Case":
        """Return the case that ``text`` names."""
        kind, _, options = text.partition(":")
        return cls(text, kind, dict(pair.split("=", 1) for pair in options.split(",") if pair))

    def number(self, name: str, default: int) -> int:
        """Return the option ``name`` as a number."""
        return int(self.options.get(name, default))

    def flag(self, name: str, default: bool) -> bool:
        """Return the option ``name``: on or off."""
        return {"on": True, "off": False}[self.options.get(name, "on" if default else "off")]


@dataclass(frozen=True, slots=True)
class Built:
    """A trainer that is ready, and what its micro-batches hold.

    Attributes:
        batches: lengths of the documents in each micro-batch, in the order they are trained.
        slots: tokens that the model computes in each micro-batch, padding included.
    """

    trainer: Trainer
    batches: list[list[int]]
    slots: list[int]


def build_model(workload: Workload, device: Device, attention: str) -> PeftModel:
    """Return the model of the workload's shape with its adapter: the same weights in every case."""
    torch.manual_seed(workload.seed)
    dtype = torch.bfloat16 if device.has_bf16 else torch.float32
    if workload.model:
        read = {"dtype": dtype, "attn_implementation": attention, "local_files_only": True}
        base = AutoModelForCausalLM.from_pretrained(workload.model, **read).to(device.type)
        return get_peft_model(base, LoraConfig(**LORA))
    with torch.device(device.type):
        base = AutoModelForCausalLM.from_config(model_config(workload), dtype=dtype, attn_implementation=attention)
    return get_peft_model(base, LoraConfig(**LORA))


def arguments(workload: Workload, device: Device, folder: Path, **changed: Any) -> dict[str, Any]:
    """Return the training arguments that all cases share, with those that ``changed``."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "learning_rate": workload.learning_rate,
        "lr_scheduler_type": "constant",
        "bf16": device.has_bf16,
        "use_cpu": device.is_cpu,
        "train_sampling_strategy": "sequential",
        "seed": workload.seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **changed,
    }


class PaddedDocuments(Dataset):
    """Documents padded to one length, as `tokenizer(..., padding="max_length")` gives them."""

    def __init__(self, corpus: Corpus, longest: int):
        self._corpus, self._longest = corpus, longest

    def __len__(self) -> int:
        return len(self._corpus)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids, mask = self._corpus.document(index)
        filled = {name: np.full(self._longest, value, np.int64) for name, value in _EMPTY.items()}
        filled["input_ids"][: len(ids)] = ids
        filled["attention_mask"][: len(ids)] = 1
        filled["labels"][: len(ids)] = np.where(mask, ids, IGNORED)
        return {name: torch.from_numpy(values) for name, values in filled.items()}


_EMPTY = {"input_ids": PAD, "attention_mask": 0, "labels": IGNORED}


def plain_script(case: Case, workload: Workload, corpus: Corpus, device: Device, folder: Path) -> Built:
    """Build the `phase1c_before` configuration: 2 x 8, padding to the longest allowed, no workers, no checkpointing."""
    rows = case.number("rows", 2)
    settings = arguments(
        workload,
        device,
        folder,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=case.number("accumulation", 8),
        dataloader_num_workers=0,
        tf32=False if device.has_tf32 else None,
    )
    trainer = Trainer(
        model=build_model(workload, device, case.options.get("attention", "sdpa")),
        args=TrainingArguments(**settings),
        train_dataset=PaddedDocuments(corpus, workload.longest),
        data_collator=default_data_collator,
    )
    batches = list(in_groups(corpus.lengths.tolist(), rows))
    return Built(trainer, batches, [len(batch) * workload.longest for batch in batches])


def trl_default(case: Case, workload: Workload, corpus: Corpus, device: Device, folder: Path) -> Built:
    """Build TRL's SFTTrainer at its defaults: batches of 8 padded to their longest, activation checkpointing.

    Accumulation of 2 gives an optimizer step the 16 documents of the plain script, and the longest length is that of
    all cases instead of 1,024 times the scale, so that all train the same documents.
    """
    rows = case.number("rows", 8)
    trainer = _sft_trainer(
        case,
        workload,
        corpus,
        device,
        folder,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=case.number("accumulation", 2),
        max_length=workload.longest,
    )
    batches = list(in_groups(corpus.lengths.tolist(), rows))
    return Built(trainer, batches, [len(batch) * max(batch) for batch in batches])


def trl_packed(case: Case, workload: Workload, corpus: Corpus, device: Device, folder: Path) -> Built:
    """Build TRL at its best: best-fit packing, padding-free batches, fused head, no checkpointing."""
    rows = case.number("rows", 1 if device.is_cpu else 2)
    trainer = _sft_trainer(
        case,
        workload,
        corpus,
        device,
        folder,
        per_device_train_batch_size=rows,
        max_length=workload.row_length,
        gradient_accumulation_steps=case.number("accumulation", max(1, 2 // rows)),
        packing=True,
        shuffle_dataset=True,
        gradient_checkpointing=case.flag("checkpoint", False),
        torch_compile=case.flag("compile", False),
    )
    lengths = [list(row) for row in trainer.train_dataset["seq_lengths"]]
    batches = [[length for row in group for length in row] for group in in_groups(lengths, rows)]
    return Built(trainer, batches, [sum(batch) for batch in batches])


def _sft_trainer(case, workload: Workload, corpus: Corpus, device: Device, folder: Path, **changed: Any) -> Trainer:
    from datasets import Dataset as Table
    from trl import SFTConfig, SFTTrainer

    documents = [corpus.document(index) for index in range(len(corpus))]
    columns = {
        "input_ids": [ids.tolist() for ids, _ in documents],
        "labels": [np.where(mask, ids, IGNORED).tolist() for ids, mask in documents],
    }
    return SFTTrainer(
        model=build_model(workload, device, case.options.get("attention") or _best_known_to_trl(device)),
        args=SFTConfig(**arguments(workload, device, folder, **changed)),
        train_dataset=Table.from_dict(columns),
        processing_class=_tokenizer(workload.vocab_size),
    )


def _best_known_to_trl(device: Device) -> str:
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    if device.is_cpu or not (is_flash_attn_2_available() or is_flash_attn_3_available()):
        return "sdpa"
    return "flash_attention_3" if is_flash_attn_3_available() else "flash_attention_2"


def _tokenizer(vocab_size: int) -> Any:
    """Return a tokenizer that TRL asks for its padding token and nothing else."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"<{number}>": number for number in range(vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=f"<{PAD}>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=f"<{PAD}>", eos_token="<1>")


def in_groups(values: list, size: int) -> Iterator[list]:
    """Yield ``values`` in lists of ``size``."""
    return (values[start : start + size] for start in range(0, len(values), size))
