"""Compiling: one graph for all layers, nothing compiled again, the same losses; and when it is worth it."""

import numpy as np
import pytest
import torch
from fake_float8 import Float8, put_in_fake_torchao
from peft import LoraConfig, get_peft_model
from torch._dynamo.utils import counters
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from snaketune.config.schema import AdapterConfig
from snaketune.config.schema_train import TrainConfig
from snaketune.core.errors import ConfigError
from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import pack
from snaketune.train.arguments import training_arguments
from snaketune.train.device import Device, find_device
from snaketune.train.engine import RunEstimate, prepare_engine
from snaketune.train.kernels.activations import checkpoint_interval, checkpointing_arguments
from snaketune.train.kernels.compiling import CompilationWatch, compilations, compile_layers, pays, wants_compiling
from snaketune.train.kernels.float8 import require_float8, use_float8
from snaketune.train.trainer import assemble

GPU = Device("cuda", has_bf16=True, has_tf32=True)
CPU = Device("cpu", has_bf16=False, has_tf32=False)
ROW, VOCABULARY = 32, 97
LOADER = {"dataloader_num_workers": 0, "dataloader_prefetch_factor": None, "dataloader_pin_memory": False}


class Documents:
    def __init__(self, count):
        generator = np.random.default_rng(0)
        self.lengths = generator.integers(4, 20, count).astype(np.int32)
        self._ids = [generator.integers(3, VOCABULARY, n).astype(np.int32) for n in self.lengths]
        self.records, self.seconds = np.arange(count), np.zeros(count, np.int32)

    def __len__(self):
        return len(self._ids)

    def document(self, index):
        return self._ids[index], np.ones(len(self._ids[index]), np.int8)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.arrow"
    documents = Documents(29)
    write_rows(path, documents, pack(documents.lengths, ROW), ROW, 0)
    rows = PackedRows(path)
    assert len(rows) % 2 == 1  # so that the last batch of two is not full
    return rows


def tuned(layers=2, dropout=0.0):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=dropout, task_type="CAUSAL_LM")
    return get_peft_model(LlamaForCausalLM(config), settings)


class Losses(TrainerCallback):
    def __init__(self):
        self.lines = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.lines += [logs[name] for name in ("loss", "eval_loss", "grad_norm") if name in logs]


def configuration(**train):
    defaults = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "logging_steps": 1}
    values = {**defaults, "learning_rate": 1e-2, "num_train_epochs": 2, "eval_steps": 4, "cpu_threads": 1, **train}
    return {"train": TrainConfig(**values).model_dump(), "adapter": AdapterConfig(r=4).model_dump(), "model": {}}


def run(rows, work, layers=2, estimate=RunEstimate(), **train):  # noqa: B008 - frozen
    cfg, model, losses = configuration(**train), tuned(layers), Losses()
    engine = prepare_engine(model, (rows, rows), cfg, CPU, estimate)
    arguments = training_arguments(cfg["train"], LOADER, work, find_device(), True, engine.checkpoint_every)
    trainer = assemble(model, arguments, rows, layout=engine.layout, callbacks=(losses, *engine.callbacks))
    trainer.train()
    return losses.lines, engine


def test_compiled_training_is_one_graph_never_compiled_again_with_the_same_losses(rows, tmp_path):
    """Two epochs with batches that are not full and held-out passes in between: about 40 seconds of a CPU."""
    expected, _ = run(rows, tmp_path / "eager")
    torch._dynamo.reset()
    counters.clear()
    losses, engine = run(rows, tmp_path / "compiled", torch_compile=True)
    assert engine.compiled_layers == 2
    assert engine.facts()["compiled_again"] == 0
    counted = compilations()
    assert counted.breaks == 0
    # The first layer has no gradient to pass on, the others do; the same two without gradients at all.
    assert counted.graphs <= 4
    assert losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("keys", [{"gradient_checkpointing": True}, {"gradient_checkpointing": "auto"}])
def test_checkpointing_changes_no_loss(rows, tmp_path, keys):
    expected, plain = run(rows, tmp_path / "plain", layers=3)
    assert plain.checkpoint_every == 0
    estimate = RunEstimate(least_checkpointing=lambda: 2)
    losses, engine = run(rows, tmp_path / "less", layers=3, estimate=estimate, **keys)
    assert engine.checkpoint_every == (2 if keys["gradient_checkpointing"] == "auto" else 1)
    assert losses == pytest.approx(expected, rel=1e-6)


def test_every_other_layer_is_checkpointed(rows, tmp_path):
    model, recomputed = tuned(layers=4), []
    for place, layer in enumerate(model.get_base_model().model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, place=place: recomputed.append(place))
    arguments = training_arguments(configuration(max_steps=1)["train"], LOADER, tmp_path, CPU, False, 2)
    assemble(model, arguments, rows).train()
    assert sorted(recomputed) == [0, 0, 1, 2, 2, 3]


def test_auto_checkpoints_as_little_as_fits_and_true_what_it_is_told():
    assert [checkpoint_interval("auto", 3, lambda n=n: n) for n in (0, 4, 1)] == [0, 4, 1]
    assert checkpoint_interval(True, 3, lambda: 0) == 3
    assert checkpoint_interval(False, 3, lambda: 1) == 0
    assert checkpointing_arguments(0) == {"activation_checkpointing": False}


@pytest.mark.parametrize(
    ("setting", "device", "is_long", "compiles"),
    [
        ("auto", GPU, True, True),
        ("auto", GPU, False, False),
        ("auto", CPU, True, False),
        (True, CPU, False, True),
        (False, GPU, True, False),
    ],
)
def test_auto_compiles_only_long_runs_on_a_gpu(setting, device, is_long, compiles):
    assert wants_compiling(setting, device, is_long, {}, False) == (compiles, None)


def test_ten_minutes_are_worth_it():
    rate = 4e14
    assert pays(601 * rate, rate)
    assert not pays(599 * rate, rate)
    assert not pays(601 * rate, None)  # an unknown GPU counts as the fastest one
    assert pays(6000 * rate, None)


def test_dropout_with_checkpointing_is_not_compiled():
    compiles, note = wants_compiling("auto", GPU, True, {"lora_dropout": 0.1}, True)
    assert not compiles
    assert "adapter.lora_dropout: 0.1" in note
    assert wants_compiling("auto", GPU, True, {"lora_dropout": 0.1}, False) == (True, None)
    with pytest.raises(ConfigError, match=r"lora_dropout: 0\.1 cannot be compiled.*torch_compile to false"):
        wants_compiling(True, CPU, False, {"lora_dropout": 0.1}, True)


def test_dora_is_not_compiled_by_itself_and_refused_by_request():
    compiles, note = wants_compiling("auto", GPU, True, {"use_dora": True}, False)
    assert not compiles and "adapter.use_dora: true breaks compiled layers apart" in note
    with pytest.raises(ConfigError, match=r"use_dora: true breaks.*set it to false, or train.torch_compile to false"):
        wants_compiling(True, CPU, False, {"use_dora": True}, False)


def test_compiling_keeps_the_names_of_the_weights():
    model = tuned()
    before = list(model.state_dict())
    assert compile_layers(model) == 2
    assert list(model.state_dict()) == before


def test_what_is_compiled_after_the_first_steps_is_counted_and_said(capsys, monkeypatch):
    class State:
        global_step = 40

    graphs = iter([0, 2, 2, 5, 5, 6, 7])
    monkeypatch.setattr(
        "snaketune.train.kernels.compiling.compilations", lambda: type("C", (), {"graphs": next(graphs)})
    )
    watch, state = CompilationWatch(warm_up=2), State()
    watch.on_train_begin(None, state, None)
    for step in (41, 42):
        state.global_step = step
        watch.on_step_end(None, state, None)
    watch.on_evaluate(None, state, None)  # the held-out pass compiles without gradients: expected, once
    for step in (43, 44):
        state.global_step = step
        watch.on_step_end(None, state, None)
    assert watch.later == 1
    assert capsys.readouterr().out == "Step 44: layers were recompiled (1 graphs), which costs time.\n"
    watch.on_evaluate(None, state, None)
    assert watch.later == 2


def test_the_chunked_loss_can_be_forbidden_and_demanded(rows):
    cfg = configuration(chunked_loss=False)
    assert not prepare_engine(tuned(), (rows, rows), cfg, CPU, RunEstimate()).chunked_loss
    assert prepare_engine(tuned(), (rows, rows), configuration(), CPU, RunEstimate()).chunked_loss
    odd = tuned()
    odd.config.logit_scale = 2.0
    with pytest.raises(ConfigError, match=r"train\.chunked_loss: true is not possible \(the model modifies its logits"):
        prepare_engine(odd, (rows, rows), configuration(chunked_loss=True), CPU, RunEstimate())
    engine = prepare_engine(odd, (rows, rows), configuration(), CPU, RunEstimate())
    assert not engine.chunked_loss
    assert engine.facts()["notes"] == (
        "the loss computes full logits because the model modifies its logits (logit_scale)",
    )


def test_float8_is_refused_where_it_cannot_be_had(monkeypatch):
    with pytest.raises(ConfigError, match=r"train\.fp8: true needs a GPU with float8"):
        require_float8({"fp8": True, "torch_compile": "auto"}, CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *a: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"train\.fp8: true needs the package torchao"):
        require_float8({"fp8": True, "torch_compile": "auto"}, GPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"set train\.torch_compile to true or auto"):
        require_float8({"fp8": True, "torch_compile": False}, GPU)
    require_float8({"fp8": False, "torch_compile": False}, CPU)


def test_float8_takes_the_base_layers_and_not_the_output_layer(monkeypatch):
    put_in_fake_torchao(monkeypatch)
    adapted = tuned()
    assert use_float8(adapted, is_full=False) == 2 * 7
    found = {name for name, module in adapted.named_modules() if isinstance(module, Float8)}
    assert len(found) == 2 * 7 and all(name.endswith("base_layer") for name in found)
    base = tuned().unload()
    assert use_float8(base, is_full=True) == 2 * 7
    assert type(base.lm_head) is torch.nn.Linear
