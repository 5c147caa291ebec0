"""The workload of a run: rows, tokens, model, settings, and the FLOPs that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from snaketune.core.errors import PlanError
from snaketune.facts.data_facts import CountedRows, DocumentLengths, LengthBin
from snaketune.facts.model_facts import PreparedModel
from snaketune.plan.advice.strategies import memory_per_gpu
from snaketune.plan.cache import KeptAnswers, PreparedConfiguration
from snaketune.plan.devices.target import Target
from snaketune.plan.flops import ModelShape, hardware_flops, shape_of
from snaketune.plan.generation import Generated, cache_gigabytes, generated_of
from snaketune.plan.memory.counting import text_sizes
from snaketune.plan.memory.fitting import choose_checkpointing
from snaketune.plan.memory.memory import DTYPE_BYTES, MemoryPlan, adapter_parameters, memory_plan
from snaketune.plan.memory_settings import CHECKPOINT_LEVELS, MemorySetting, setting_of
from snaketune.settings.planning_slice import PlanningSlice

SPEED_KEYS = {
    "model": ("dtype", "quantization", "attn_implementation"),
    "adapter": ("type", "use_dora", "lora_dropout", "dtype", "target_modules"),
    "train": (
        *("method", "bf16", "fp16", "fp8", "gradient_checkpointing", "checkpoint_every_n_layers", "torch_compile"),
        *("activation_offloading", "use_liger_kernel"),
    ),
}
"""Settings that determine throughput besides model, rows and device; the rank hardly matters."""
GENERATION_KEYS = ("rewards", "num_generations", "max_completion_length", "beta", "num_iterations", "use_vllm")
"""Those of ``train.grpo``, whose accumulation also decides how many answers are generated at a time."""


@dataclass(frozen=True, slots=True)
class Work:
    """The model and the data of a training. Numbers of rows and tokens are those of one epoch."""

    rows: int
    documents: int
    tokens: int
    squares: int
    """Sum of squared document lengths, from the midpoints of the histogram's bins."""
    row_length: int
    eval_tokens: int
    config: Any
    """The ``PreTrainedConfig``."""
    parameters: int
    trained: int
    shape: ModelShape | None
    """None for an architecture whose FLOPs cannot be counted."""
    setting: MemorySetting
    method: str
    """``train.method``."""
    notes: tuple[str, ...]
    generated: Generated | None = None
    """What is generated, by a method that trains on its own answers."""

    @property
    def is_full(self) -> bool:
        """Tell whether all weights are trained."""
        return self.setting.adapter is None

    @property
    def layers(self) -> int:
        """Return the decoder's layers."""
        return text_sizes(self.config).layers

    def flops_per_token(self, every: int | None = None, full: bool | None = None) -> float | None:
        """Return the mean FLOPs executed per real token of training.

        Args:
            every: one in this many layers is recomputed; None takes the run's own setting.
            full: whether all weights are trained; None takes the run's own method.
        """
        if self.shape is None:
            return None
        whole = self.is_full if full is None else full
        level = self.setting.checkpoint_every if every is None else every
        lora = 0 if whole else self.trained
        # Per token of this data set: attention's share grows with the documents' lengths, so it is no constant of the
        # model.
        return hardware_flops(self.shape, self.tokens, self.squares, lora, whole, level) / self.tokens


def read_work(
    cfg: PlanningSlice,
    folder: Path,
    model: PreparedModel,
    rightsize: DocumentLengths,
    pack: CountedRows,
    target: Target,
    answers: KeptAnswers | None = None,
    probe: Mapping[str, Any] | None = None,
) -> Work:
    """Return the work of a run from its fact files.

    Args:
        cfg: the ``model``, ``adapter`` and ``train`` sections.
        folder: the prepared model; only its configuration is read.
        model: manifest of the model.
        rightsize: rightsize.json.
        pack: manifest of the packed rows.
        target: the device, which decides dtypes and recomputation.
        answers: what is known of the model from earlier plans.
        probe: the record of a probe of this run, for the length of generated answers.

    Raises:
        ConfigError: if the adapter does not fit the model.
    """
    config = _configuration(folder, cfg["model"]["trust_remote_code"], answers)
    train, held_out = pack["splits"]["train"], pack["splits"].get("eval")
    setting, notes = setting_of(cfg, pack["row_length"], target.kind, target.has_bf16), []
    try:
        shape = shape_of(config)
    except PlanError as error:
        shape = None
        notes.append(str(error))
    try:
        setting = with_checkpointing(config, setting, cfg["train"]["gradient_checkpointing"], target)
    except PlanError as error:
        notes.append(str(error))
    if cfg["train"]["method"] == "reward":
        notes.append("train.method: reward computes no logits of the vocabulary, so that memory is an upper bound")
    adapter = setting.adapter
    work = Work(
        rows=train["rows"],
        documents=train["documents"],
        tokens=train["tokens"],
        squares=squared_lengths(rightsize["histogram"], rightsize["max_length"], _fate(rightsize)),
        row_length=pack["row_length"],
        eval_tokens=held_out["tokens"] if held_out else 0,
        config=config,
        parameters=model["parameters"],
        trained=adapter_parameters(config, adapter) if adapter else model["parameters"],
        shape=shape,
        setting=setting,
        method=cfg["train"]["method"],
        notes=tuple(dict.fromkeys(notes)),
    )
    return (
        work if work.method != "grpo" else of_generations(cfg, work, generated_of(cfg, rightsize, train, probe), target)
    )


def of_generations(cfg: PlanningSlice, work: Work, generated: Generated, target: Target) -> Work:
    """Return the work of GRPO: each answer with its prompt is a row of its own, padded to the longest.

    The answers are used for ``train.grpo.num_iterations`` optimizer steps, and are counted once.
    """
    # TRL's trainer recomputes layers where it is told to and makes no choice of its own: the setting is made afresh.
    setting = setting_of(cfg, generated.longest, target.kind, target.has_bf16)
    longer = generated.processed / (work.tokens * generated.answers / work.documents)
    return replace(
        work,
        rows=generated.answers * cfg["train"]["grpo"]["num_iterations"],
        documents=generated.answers,
        tokens=generated.processed,
        squares=round(work.squares * generated.answers / work.documents * longer**2),
        row_length=generated.longest,
        setting=_of_answers(setting, generated),
        notes=(*work.notes, *generated.sentences()),
        generated=generated,
    )


def _of_answers(setting: MemorySetting, generated: Generated) -> MemorySetting:
    # TRL computes the logits of the answers at once, with scaled dot-product attention over padded rows.
    length, scored = generated.longest, generated.scored
    return replace(setting, row_length=length, chunked_loss=False, scored=scored, attention="sdpa")


def setting_on_gpu(cfg: PlanningSlice, work: Work) -> MemorySetting:
    """Return the memory setting that the run would have on a GPU."""
    setting = setting_of(cfg, work.row_length, "cuda")
    return _of_answers(setting, work.generated) if work.generated else setting


def _configuration(folder: Path, trust_remote_code: bool, answers: KeptAnswers | None) -> Any:
    """Return the configuration of the model, lazily if facts about it are cached."""
    from snaketune.model.architecture import read_configuration

    def read() -> Any:
        return read_configuration(folder, trust_remote_code)

    return read() if answers is None else PreparedConfiguration(answers, read)


def with_checkpointing(config: Any, setting: MemorySetting, wanted: Any, target: Target) -> MemorySetting:
    """Return the setting with the recomputation that ``train.gradient_checkpointing: auto`` chooses on the device."""
    if wanted != "auto" or target.is_cpu or target.memory_gb is None:
        return setting
    return replace(setting, checkpoint_every=choose_checkpointing(config, setting, target.memory_gb).checkpoint_every)


def _fate(rightsize: DocumentLengths) -> str:
    """Return how documents longer than a row are handled, for :func:`squared_lengths`."""
    return "pieces" if rightsize.get("in_pieces") else rightsize["on_too_long"]


def squared_lengths(histogram: Sequence[LengthBin], max_length: int, on_too_long: str) -> int:
    """Return the sum of the squared lengths, in tokens², of the documents that remain.

    Args:
        histogram: bins ``from`` (inclusive) ``to`` (exclusive) with ``records``.
        max_length: longer documents are truncated or dropped.
        on_too_long: ``truncate`` cuts them, ``pieces`` cuts them into several of that length.
    """
    total = 0.0
    for part in histogram:
        # The upper edge of a bin is exclusive, hence the 1.
        middle = (part["from"] + part["to"] - 1) / 2
        if middle <= max_length:
            total += part["records"] * middle**2
        elif on_too_long != "drop":
            # Pieces: middle / max_length of them, each with max_length squared pairs.
            total += part["records"] * max_length * (middle if on_too_long == "pieces" else max_length)
    return round(total)


def tokens_up_to(histogram: Sequence[LengthBin], length: int) -> float:
    """Return the fraction of tokens in documents of at most ``length`` tokens, by the midpoints of the bins."""
    sizes = [((part["from"] + part["to"] - 1) / 2, part["records"]) for part in histogram]
    whole = sum(middle * records for middle, records in sizes)
    return sum(middle * records for middle, records in sizes if middle <= length) / whole if whole else 0.0


def speed_key(cfg: PlanningSlice, work: Work, target: Target) -> dict[str, Any]:
    """Return the speed key: runs with the same key have the same throughput."""
    sections = cast(Mapping[str, Mapping[str, Any]], cfg)
    key: dict[str, Any] = {
        f"{section}.{name}": sections[section][name]
        for section, names in SPEED_KEYS.items()
        for name in names
        if name in sections[section]
    }
    key |= {"parameters": work.parameters, "row_length": work.row_length, "gpus": target.gpus}
    # The micro-batch that is used, which may differ from the configured one.
    key["per_device_train_batch_size"] = work.setting.micro_batch
    if work.generated:
        group, own = cast(Mapping[str, Any], cfg["train"]["grpo"]), "train.gradient_accumulation_steps"
        key |= {f"train.grpo.{name}": group[name] for name in GENERATION_KEYS}
        key[own] = cfg["train"]["gradient_accumulation_steps"]
    return key | ({"cpu_threads": cfg["train"]["cpu_threads"]} if target.is_cpu else {})


def trained_gb(work: Work) -> float:
    """Return the size of the trained weights in GB."""
    return (
        work.trained
        * DTYPE_BYTES[work.setting.adapter.dtype if work.setting.adapter else work.setting.weight_dtype]
        / 1e9
    )


def checkpoint_gb(work: Work) -> float:
    """Return the size of a checkpoint in GB: the trained weights and Adam's two moments."""
    optimizer = work.setting.optimizer
    # Two moments of one byte per value; the scales of their blocks are negligible.
    if "8bit" in optimizer:
        return trained_gb(work) + 2 * work.trained / 1e9
    return trained_gb(work) * (1 if optimizer in ("sgd", "adafactor") else 3)


def memory_of(cfg: PlanningSlice, work: Work, target: Target) -> tuple[MemoryPlan | None, tuple[str, ...]]:
    """Return the memory plan of one device, or the reason why it is unknown."""
    try:
        plan = memory_plan(work.config, work.setting)
    except PlanError as error:
        return None, (str(error),)
    if work.generated:
        plan = _with_cache(plan, work, target)
    train = cfg["train"]
    strategy, offload = train.get("strategy", "single"), train.get("offload", "none")
    return memory_per_gpu(plan, work.setting, strategy, target.gpus, work.layers, offload), ()


def _with_cache(plan: MemoryPlan, work: Work, target: Target) -> MemoryPlan:
    """Return the memory plan with the keys and values of generation, as far as they exceed what training needs."""
    assert work.generated is not None
    memory = None if target.is_cpu else target.memory_gb
    cache = cache_gigabytes(work.config, work.generated, work.setting.weight_dtype, memory)
    # vLLM keeps its memory while training; transformers frees keys and values before the forward pass.
    shared = 0.0 if work.generated.vllm_share else plan.activations + plan.head + plan.workspace
    return replace(plan, cache=max(cache - shared, 0.0))


def least_memory(cfg: PlanningSlice, work: Work, target: Target) -> float | None:
    """Return the memory plan with a micro-batch of 1 and every layer recomputed, an equivalent training."""
    smallest = replace(work.setting, checkpoint_every=CHECKPOINT_LEVELS[-1], micro_batch=1)
    plan, _ = memory_of(cfg, replace(work, setting=smallest), target)
    return plan.total if plan else None
