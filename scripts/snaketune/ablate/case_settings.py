"""The configuration of one case, and its description."""

from typing import Any, cast

from snaketune.ablate.factors import CaseSetting, Factor
from snaketune.settings.model_section import ModelSection
from snaketune.settings.operational import Operational
from snaketune.settings.training_slices import PaddedTrain, StartedAdapter, TrainingSlice


def configured(
    cfg: TrainingSlice, setting: CaseSetting, tokens_per_row: float, step_tokens: float, seed: int
) -> TrainingSlice:
    """Return the ``train``, ``adapter`` and ``model`` sections of a case.

    Every case has about the same number of real tokens per optimizer step, so that all are the same training.
    Accumulation follows from that; otherwise packing would silently make the batch several times larger.

    Args:
        cfg: the sections of the run.
        setting: of the case.
        tokens_per_row: real tokens in a row, on average.
        step_tokens: real tokens per optimizer step of the run.
        seed: of this repeat.
    """
    accumulation = max(1, round(step_tokens / (setting.rows * tokens_per_row)))
    train: dict[str, Any] = {
        **cfg["train"],
        "per_device_train_batch_size": setting.rows,
        "gradient_accumulation_steps": accumulation,
        "optimizer_in_backward": False,  # the same steps without accumulation
        "bf16": setting.bf16,
        "fp16": False,
        "tf32": setting.tf32,
        "gradient_checkpointing": setting.recomputes,
        "checkpoint_every_n_layers": 1,
        "torch_compile": setting.compiles,
        "use_liger_kernel": setting.liger,
        "optim": setting.optim,
        "activation_offloading": setting.offloads,
        "fp8": setting.fp8,
        "keeps_prefixes": not setting.shares,
        "seed": seed,
    }
    model: dict[str, Any] = {**cfg["model"], "quantization": setting.quantization}
    if not setting.bf16:
        model["dtype"] = "float32"
    adapter = _adapter(cfg["adapter"], setting.rank)
    return {"train": cast(PaddedTrain, train), "adapter": adapter, "model": cast(ModelSection, model)}


def _adapter(section: StartedAdapter, rank: int) -> StartedAdapter:
    """Return a fresh adapter with another rank at the same scale."""
    kept = section.copy()
    kept.pop("init_from", None)
    kept.pop("start", None)
    if section.get("type", "lora") != "lora" or rank == section["r"]:
        return kept
    # alpha / r is kept, even if alpha is then not a whole number.
    alpha = cast(int, section["lora_alpha"] * rank / section["r"])
    return {**kept, "r": rank, "lora_alpha": alpha}


def loading(settings: Operational, setting: CaseSetting) -> Operational:
    """Return the operational settings of a case."""
    has_workers = setting.workers > 0
    return {
        **settings,
        "dataloader_num_workers": setting.workers,
        "dataloader_prefetch_factor": 4 if has_workers else None,
        "dataloader_pin_memory": has_workers,
    }


SETTING_WORDS: dict[str, dict[Any, str]] = {
    "packing": {True: "packed", False: "one document per row"},
    "tf32": {True: "TF32", False: "exact float32"},
    "bf16": {True: "bfloat16", False: "float32"},
    "recomputes": {True: "every layer recomputed", False: "nothing recomputed", "auto": "as little as memory allows"},
    "compiles": {True: "compiled", False: "not compiled"},
    "quantization": {"none": "not quantised", "8bit": "8 bit", "4bit": "4 bit"},
    "liger": {True: "kernels of liger-kernel", False: "the model's own operations"},
    "offloads": {True: "activations in RAM", False: "activations on the GPU"},
    "fp8": {True: "float8, one scale for each tensor", "rowwise": "float8, one scale for each row", False: "no float8"},
    "shares": {True: "common prefixes computed once", False: "in each document"},
}


def setting_in_words(factor: Factor, setting: CaseSetting) -> str:
    """Describe a factor's value in a setting."""
    return ", ".join(_word(setting, name) for name in factor.fields)


def _word(setting: CaseSetting, name: str) -> str:
    value = getattr(setting, name)
    if name in SETTING_WORDS:
        return SETTING_WORDS[name][value]
    if name == "row_length":
        return f"rows of {value:,} tokens"
    if name == "places":
        return f"micro-batch of {setting.rows} row{'' if setting.rows == 1 else 's'}, the rest accumulated"
    if name == "workers":
        return f"{value}, prefetching, pinned memory" if value else "none"
    if name == "optim":
        return str(value)
    return f"rank {value}"
