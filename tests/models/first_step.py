"""A kind of model as far as its first step, in this process: what preparation, plan, attention and LoRA make of it."""

import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_models import configuration
from trip import SETTINGS, random_model, run_of, tokenizer, write_data

from snaketune.core.errors import PlanError, SnaketuneError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.data.rows.packing import wants_packing
from snaketune.model.architecture import read_configuration
from snaketune.model.capabilities import describe_nature
from snaketune.plan.flops import shape_of
from snaketune.plan.memory.memory import memory_plan
from snaketune.plan.memory_settings import MemorySetting, setting_of
from snaketune.train.device import find_device
from snaketune.train.run import build_trainer
from snaketune.workflow.stages import slice_of

RECORDS = [("lamp red", "on at seven"), ("blue", "nine three one"), ("kitchen two", "off")]
LAYOUTS = {True: "packed", False: "alone"}


@dataclass
class FirstStep:
    """How far a kind of model came.

    Attributes:
        error: the sentence that ended it, None where its first step ran.
        unknown: sentences on what the plan does not know of it.
        idle: adapted layers that the first step leaves without a gradient.
    """

    kind: str
    error: str | None = None
    attention: str = ""
    packing: bool | None = None
    unknown: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    printed: str = ""


def write_rows(root: Path) -> Path:
    """Write the same rows twice, packed and one document each, for every kind of model."""
    tokenizer().save_pretrained(root / "source")
    for packed, name in LAYOUTS.items():
        write_data(root / name, packed, RECORDS, root / "source")
    return root


def first_step(kind: str, root: Path, rows: Path) -> FirstStep:
    """Take a kind of model as far as the gradients of its first step; anything but our own errors is raised."""
    found, said, config = FirstStep(kind), io.StringIO(), configuration(kind)
    config.save_pretrained(root / "source")
    with contextlib.redirect_stdout(said):
        try:
            _go(found, config, root, rows)
        except SnaketuneError as error:
            found.error = f"{type(error).__name__}: {error}"
    found.printed = said.getvalue()
    return found


def _go(found: FirstStep, config: Any, root: Path, rows: Path) -> None:
    folder = root / "source"
    nature = describe_nature(folder, False)
    found.packing = nature["packing"]
    packed = PackedRows(rows / LAYOUTS[wants_packing(True, nature["packing"])] / "rows" / "eval.arrow")
    run = run_of(root, {"train": {"max_steps": 1}}, full=False)
    plan, cfg, device = slice_of(run, "plan_run"), slice_of(run, "train_model"), find_device()
    found.unknown = _plan(read_configuration(folder, False), setting_of(plan, packed.row_length, "cpu"))
    random_model(config).save_pretrained(folder)
    config.save_pretrained(folder)  # a class for the text alone has saved its own
    trainer = build_trainer(folder, packed, packed, cfg, SETTINGS, root / "work", device)
    found.attention = trainer.model.config._attn_implementation
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trainer.model.train(), next(iter(trainer.get_train_dataloader())))
    weights = [(name, weight) for name, weight in trainer.model.named_parameters() if "lora_B" in name]
    found.idle = sorted({name for name, weight in weights if weight.grad is None or not bool(weight.grad.any())})


def _plan(config: Any, setting: MemorySetting) -> list[str]:
    unknown = []
    for ask in (lambda: shape_of(config), lambda: memory_plan(config, setting)):
        try:
            ask()
        except PlanError as error:
            unknown.append(str(error))
    return list(dict.fromkeys(unknown))
