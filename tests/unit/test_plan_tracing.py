"""Traced activation memory against the same step really carried out on a CPU."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from plan_models import MIXTRAL_8X7B, SMALL
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Lfm2Config, LlamaConfig

from snaketune.core.errors import PlanError
from snaketune.model.adapters.lora import leave_inputs_to_autocast
from snaketune.plan.memory import tracing
from snaketune.plan.memory.meta_ops import LiveBytes, run_on_meta
from snaketune.plan.memory.tracing import Trace, trace_step
from snaketune.plan.memory_settings import AdapterSetting, MemorySetting
from snaketune.train.batches import with_boundaries
from snaketune.train.kernels.attention import VARLEN, register_varlen
from snaketune.train.kernels.cpu_attention import attend_by_document
from snaketune.train.kernels.fused_layers import fuse_layers

CONFIG = LlamaConfig(**{**SMALL, "num_hidden_layers": 5, "hidden_size": 128, "intermediate_size": 384})
FLOAT32 = MemorySetting(192, 2, attention="sdpa", weight_dtype="float32", autocast="", device="cpu")


def carried_out(setting):
    """Return the memory of a real step on the CPU with real weights, documents and autocast."""
    base = model = AutoModelForCausalLM.from_config(CONFIG, dtype=getattr(torch, setting.weight_dtype))
    register_varlen(attend_by_document)
    base.set_attn_implementation(VARLEN if setting.attention == "fused" else setting.attention)
    if setting.adapter:
        adapter = {"r": setting.adapter.r, "lora_dropout": setting.adapter.lora_dropout}
        model = get_peft_model(base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **adapter))
    if setting.adapter and setting.autocast:
        leave_inputs_to_autocast(model)
    if not setting.autocast:
        fuse_layers(model)
    if setting.checkpoint_every:
        base.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=setting.checkpoint_every)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
    model.train()
    ids = torch.randint(0, 1024, (setting.micro_batch, setting.row_length))
    positions = torch.arange(setting.row_length).remainder(64).expand_as(ids)
    batch = with_boundaries({"input_ids": ids, "position_ids": positions})
    batch = batch if setting.attention == "fused" else {"input_ids": ids, "position_ids": positions}
    live = LiveBytes([*model.parameters(), *model.buffers(), *filter(torch.is_tensor, batch.values())])
    autocast = torch.autocast("cpu", getattr(torch, setting.autocast)) if setting.autocast else nullcontext()
    with live:
        with autocast:
            body = base.base_model
            hidden = body(**batch, use_cache=False).last_hidden_state
        kept = live.now
        torch.autograd.backward(hidden, torch.empty_like(hidden))
    return Trace(kept, live.peak - kept)


@pytest.mark.parametrize(
    "setting",
    [
        FLOAT32,
        replace(FLOAT32, attention="fused"),
        replace(FLOAT32, checkpoint_every=1),
        replace(FLOAT32, adapter=None),
        replace(FLOAT32, adapter=AdapterSetting(lora_dropout=0.1)),
        replace(FLOAT32, adapter=None, autocast="bfloat16"),
        replace(FLOAT32, weight_dtype="bfloat16", autocast="bfloat16"),
        replace(FLOAT32, weight_dtype="bfloat16", autocast="bfloat16", checkpoint_every=1, attention="eager"),
    ],
    ids=[
        "lora",
        "lora by document",
        "lora recomputed",
        "full",
        "lora dropout",
        "full mixed",
        "lora mixed",
        "eager mixed recomputed",
    ],
)
def test_trace_is_within_2_percent_of_a_real_step(setting):
    traced, real = trace_step(CONFIG, setting), carried_out(setting)
    # Masks and positions of a real batch are some kilobytes, which only show at this size.
    assert traced.kept == pytest.approx(real.kept, rel=0.02, abs=65536)
    assert traced.kept + traced.transient == pytest.approx(real.kept + real.transient, rel=0.02)


@pytest.mark.parametrize("every", [2, 4])
def test_partial_recomputation_is_within_3_percent_of_a_real_step(every):
    from snaketune.plan.memory.memory import _activations

    setting = replace(FLOAT32, checkpoint_every=every)
    kept, transient = _activations(CONFIG, setting)
    real = carried_out(setting)
    assert kept == pytest.approx(real.kept, rel=0.03)
    assert kept + transient == pytest.approx(real.kept + real.transient, rel=0.03)


def test_mixed_layers_are_traced_at_full_depth():
    def kept(*kinds):
        config = Lfm2Config(**{**SMALL, "num_hidden_layers": len(kinds)}, layer_types=list(kinds))
        return trace_step(config, MemorySetting(128)).kept

    attention, convolution = "full_attention", "conv"
    mixed = kept(attention, attention, convolution, convolution, attention, convolution)
    alike = kept(*[attention] * 6)
    one = alike - kept(*[attention] * 5)
    other = kept(attention, attention, convolution, convolution) - kept(attention, attention, convolution)
    assert one != other
    assert mixed == alike - 3 * one + 3 * other


def test_an_8_bit_base_keeps_its_inputs_which_adapters_keep_anyway():
    plain, nf4, int8 = (trace_step(CONFIG, MemorySetting(256, quantization=name)) for name in ("none", "4bit", "8bit"))
    assert nf4.kept == plain.kept == int8.kept
    few = AdapterSetting(target_modules=("q_proj",))
    nf4, int8 = (trace_step(CONFIG, MemorySetting(256, adapter=few, quantization=name)) for name in ("4bit", "8bit"))
    assert int8.kept > nf4.kept


def test_a_trace_is_made_once(monkeypatch):
    setting = replace(FLOAT32, row_length=96)
    first = trace_step(CONFIG, setting)
    monkeypatch.setattr(tracing, "_run", None)
    assert trace_step(CONFIG, setting) is first


def test_experts_cannot_be_traced():
    with pytest.raises(PlanError, match="mixtral"):
        trace_step(MIXTRAL_8X7B, MemorySetting(128))


ATEN = torch.ops.aten
OPERATIONS = (
    (ATEN.mm.default, lambda given: (given.t(),)),
    (ATEN.mul.Tensor, lambda given: (given.half(),)),
    (ATEN.mul.Tensor, lambda given: (2,)),
    (ATEN.mul.Tensor, lambda given: (2.0,)),
    (ATEN.mul.Tensor, lambda given: (torch.tensor(2.0, dtype=torch.float64),)),
    (ATEN.add_.Tensor, lambda given: (given,)),
    (ATEN.unsqueeze_.default, lambda given: (1,)),
    (ATEN._unsafe_view.default, lambda given: ([3, 2, 2],)),
    (ATEN.split.Tensor, lambda given: (2,)),
)


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
@pytest.mark.parametrize("dtype", [torch.float16, torch.int64], ids=str)
def test_an_operation_that_is_looked_up_returns_what_it_returns_when_it_is_run(number, dtype):
    operation, others = OPERATIONS[number]

    def described(run):
        given = torch.empty_strided((3, 4), (1, 3), dtype=dtype, device="meta")
        results = run(operation, (given, *others(given)), {})
        results = [results] if isinstance(results, torch.Tensor) else results
        storages = [value.untyped_storage()._cdata for value in (*results, given)]
        layouts = [(value.shape, value.stride(), value.dtype, value.device) for value in (*results, given)]
        return layouts, [storage == storages[-1] for storage in storages]

    expected = described(lambda func, args, kwargs: func(*args, **kwargs))
    assert [described(run_on_meta) for _ in range(2)] == [expected] * 2


def test_an_operation_is_looked_up_the_second_time():
    runs = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            runs.append(func)
            return func(*args, **(kwargs or {}))

    given = torch.empty(5, 7, device="meta")
    with Noted():
        for _ in range(2):
            run_on_meta(ATEN.cumsum.default, (given, 1), {})
            run_on_meta(ATEN.cumsum_.default, (given, 1), {})
    assert [runs.count(func) for func in (ATEN.cumsum.default, ATEN.cumsum_.default)] == [1, 1]
