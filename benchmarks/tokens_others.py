"""What `benchmarks/tokens.py` compares with: each function prepares once and returns the work that is timed.

All read the same JSON lines, render the same template and mask all but the answers; nothing is longer than
`LONGEST`, so that no step of theirs that cuts texts removes a token. All run in one process (`num_proc` null: with 1,
`datasets` starts a process and pays for it), and nothing is cached between runs.
"""

import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LONGEST = 8192
Work = Callable[[], tuple[int, int]]


def with_datasets(folder: Path, records: Path, cache: Path, batched: bool) -> Work:
    """Return ``datasets.map`` of ``apply_chat_template`` with the assistant's mask."""
    tokenizer = _tokenizer(folder)

    def tokenize(batch: dict[str, Any]) -> dict[str, Any]:
        return tokenizer.apply_chat_template(
            batch["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        ).data

    return _mapping(records, cache, tokenize, batched)


def with_trl(folder: Path, records: Path, cache: Path, max_length: int | None) -> Work:
    """Return the preparation of TRL's SFTTrainer, ``_prepare_dataset``, of a trainer that is made beforehand.

    Args:
        folder: the model folder.
        records: the records as JSON lines.
        cache: folder for what TRL and datasets write.
        max_length: as in TRL's SFTConfig; None leaves out the step that cuts texts and looks for empty masks.
    """
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = _tokenizer(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes))
    settings = SFTConfig(
        output_dir=str(cache / "trl"),
        assistant_only_loss=True,
        max_length=max_length,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    with tempfile.TemporaryDirectory(dir=cache) as fresh:
        few = _loaded(records, fresh).select_columns(["messages"]).select(range(8))
        trainer = SFTTrainer(model=model, args=settings, train_dataset=few, processing_class=tokenizer)

    def work() -> tuple[int, int]:
        with tempfile.TemporaryDirectory(dir=cache) as fresh:
            raw = _loaded(records, fresh).select_columns(["messages"])
            return _counts(trainer._prepare_dataset(raw, tokenizer, settings, False, None, "train"))

    return work


def with_llamafactory(folder: Path, records: Path, cache: Path) -> Work:
    """Return LLaMA-Factory's supervised processor in its batched ``map``; its step that renames columns is inside."""
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams.data_args import DataArguments

    settings, tokenizer = DataArguments(template="chatml", cutoff_len=LONGEST), _tokenizer(folder)
    template = get_template_and_fix_tokenizer(tokenizer, settings)
    processor = SupervisedDatasetProcessor(template=template, tokenizer=tokenizer, processor=None, data_args=settings)

    def tokenize(batch: dict[str, Any]) -> dict[str, Any]:
        count = len(batch["messages"])
        empty = {"_system": [""] * count, "_tools": [""] * count}
        media = {name: [None] * count for name in ("_images", "_videos", "_audios")}
        prompts = {"_prompt": [turns[:-1] for turns in batch["messages"]]}
        answers = {"_response": [turns[-1:] for turns in batch["messages"]]}
        return processor.preprocess_dataset({**prompts, **answers, **empty, **media})

    return _mapping(records, cache, tokenize, batched=True)


def with_axolotl(folder: Path, records: Path, cache: Path) -> Work:
    """Return axolotl's chat template strategy in its ``map`` over single records."""
    from axolotl.prompt_strategies.chat_template import ChatTemplatePrompter, ChatTemplateStrategy

    tokenizer = _tokenizer(folder)
    strategy = ChatTemplateStrategy(
        ChatTemplatePrompter(tokenizer, tokenizer.chat_template, max_length=LONGEST),
        tokenizer=tokenizer,
        train_on_inputs=False,
        sequence_len=LONGEST,
        roles_to_train=["assistant"],
        train_on_eos="turn",
    )
    return _mapping(records, cache, strategy.tokenize_prompt, batched=False)


Make = Callable[[Path, Path, Path], Work]
# Name: package, and how the work is made.
CONTENDERS: dict[str, tuple[str, Make]] = {
    "datasets.map, record by record": ("datasets", lambda *places: with_datasets(*places, batched=False)),
    "datasets.map, batched": ("datasets", lambda *places: with_datasets(*places, batched=True)),
    "TRL SFTTrainer preparation": ("trl", lambda *places: with_trl(*places, max_length=LONGEST)),
    "TRL, without its cutting step": ("trl", lambda *places: with_trl(*places, max_length=None)),
    "LLaMA-Factory": ("llamafactory", with_llamafactory),
    "axolotl": ("axolotl", with_axolotl),
}


def others(folder: Path, records: Path, cache: Path) -> tuple[dict[str, Work], list[str]]:
    """Return the work of each contender that is installed, and a sentence about each that is not."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    present = {name: make for name, (package, make) in CONTENDERS.items() if find_spec(package)}
    absent = dict.fromkeys(package for name, (package, _) in CONTENDERS.items() if name not in present)
    missing = [f"{package} is not installed, so it is not measured." for package in absent]
    return {name: make(folder, records, cache) for name, make in present.items()}, missing


def _tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)


def _mapping(records: Path, cache: Path, tokenize: Callable, batched: bool) -> Work:
    def work() -> tuple[int, int]:
        with tempfile.TemporaryDirectory(dir=cache) as fresh:
            raw = _loaded(records, fresh)
            done = raw.map(tokenize, batched=batched, remove_columns=raw.column_names, load_from_cache_file=False)
            return _counts(done)

    return work


def _loaded(records: Path, cache: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset("json", data_files=str(records), split="train", cache_dir=cache)


def _counts(done: Any) -> tuple[int, int]:
    """Return the records and the tokens of a tokenised data set."""
    import pyarrow.compute

    lengths = pyarrow.compute.list_value_length(done.data.column("input_ids"))
    return len(done), int(pyarrow.compute.sum(lengths).as_py())
