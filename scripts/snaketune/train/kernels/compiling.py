"""Compilation of decoder layers: one by one, after the adapter, only if it pays off, with recompilations counted."""

from dataclasses import dataclass

import torch
from torch._dynamo.utils import counters
from transformers import TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from snaketune.core.errors import ConfigError
from snaketune.settings.adapter_section import AdapterSection
from snaketune.train.device import Device

# Compiling costs one to three minutes on a GPU machine and saves about a sixth of the time after that
# (published: 16-44%), so that it has paid for itself after roughly ten minutes.
WORTH_SECONDS = 600.0
# FLOP/s that training reaches on the fastest GPU sold (dense bfloat16): if the GPU's own peak is unknown, a run that is
# long even there is long everywhere.
FASTEST_RATE = 2.5e15 * 0.5


@dataclass(frozen=True, slots=True)
class Compilations:
    """Compilations of this process: graphs and graph breaks."""

    graphs: int
    breaks: int


def compile_layers(model: torch.nn.Module) -> int:
    """Compile each decoder layer in place and return how many there are.

    Compiling layer by layer, after the adapter, gives one graph for all of them, keeps the names of the state dict
    (a compiled whole model saves ``_orig_mod.`` keys that load as zeros) and survives activation checkpointing.
    Shapes are constants: packed rows always have the same, and kernels for one shape are faster.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer.compile(dynamic=False)
    return len(layers)


def compilations() -> Compilations:
    """Return the counts so far; a new graph after the first steps is a recompilation."""
    return Compilations(counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))


def pays(flops: float, rate: float | None) -> bool:
    """Tell whether a run is long enough for compilation, from its FLOPs and the expected FLOP/s.

    The rule considers the whole run, not the rest of it, so that a resumed run decides as before.

    Args:
        flops: forward and backward passes of the whole run.
        rate: expected FLOP/s of the GPU; None when it is unknown.
    """
    return flops / (rate or FASTEST_RATE) >= WORTH_SECONDS


def wants_compiling(
    setting: bool | str, device: Device, is_long: bool, adapter: AdapterSection, is_checkpointing: bool
) -> tuple[bool, str | None]:
    """Return whether to compile, and why not if it might be expected.

    ``auto`` never compiles on a CPU, where training is for trying things out.

    Args:
        setting: ``train.torch_compile``.
        device: where the run computes.
        is_long: whether compiling pays.
        adapter: the ``adapter`` section.
        is_checkpointing: whether activations are recomputed.

    Raises:
        ConfigError: if compiling is requested together with a setting that breaks it.
    """
    if setting is False or (setting == "auto" and (device.is_cpu or not is_long)):
        return False, None
    obstacle, cure = _obstacle(adapter, is_checkpointing)
    if not obstacle:
        return True, None
    if setting is True:
        raise ConfigError(f"{obstacle}: set it to {cure}, or train.torch_compile to false.")
    return False, f"{obstacle}: layers are not compiled; set it to {cure} for more speed"


def _obstacle(adapter: AdapterSection, is_checkpointing: bool) -> tuple[str | None, str]:
    """Return the adapter's setting that does not compile, and a value that does."""
    if adapter.get("use_dora"):
        # PEFT's DoRA breaks the graph in each adapted layer and then exceeds the limit of recompilations: it would run
        # as slowly as before, after minutes of compiling.
        return "adapter.use_dora: true breaks compiled layers apart", "false"
    dropout = adapter.get("lora_dropout", 0.0)
    if dropout and is_checkpointing:
        # https://github.com/huggingface/peft/issues/3020: inductor fails on the recomputed dropout.
        return f"adapter.lora_dropout: {dropout} cannot be compiled together with activation checkpointing", "0"
    return None, ""


class CompilationWatch(TrainerCallback):
    """Prints a line on each recompilation after the first steps, which costs tens of seconds.

    Attributes:
        later: graphs compiled after the warm-up.
    """

    def __init__(self, warm_up: int = 2):
        self._warm_up, self._started, self._known = warm_up, 0, compilations()
        self._has_evaluated = False
        self.later = 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Record where training starts, which is not at step 0 after an interruption."""
        self._started = state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        """Count what this step compiled."""
        self._count(state.global_step, expected=state.global_step - self._started <= self._warm_up)

    def on_evaluate(self, args, state, control, **kwargs):
        """Count what a held-out pass compiled; the first one needs graphs of its own, without gradients."""
        self._count(state.global_step, expected=not self._has_evaluated)
        self._has_evaluated = True

    def _count(self, step: int, expected: bool) -> None:
        now = compilations()
        new, self._known = now.graphs - self._known.graphs, now
        if new and not expected:
            self.later += new
            print(f"Step {step}: layers were recompiled ({new} graphs), which costs time.", flush=True)
