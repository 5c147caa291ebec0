"""What a card changes: order of checks, boundaries of documents, determinism, and running out of its memory."""

import gc
import importlib.util
import os
import weakref
from types import SimpleNamespace

import numpy as np
import preloaded
import pytest
import torch
from fake_float8 import Float8, put_in_fake_torchao
from test_training_steps import METHODS, method, prepared
from tiny_training import SETTINGS, configuration
from transformers import LlamaConfig

from snaketune.core.errors import ConfigError, TrainingError
from snaketune.evaluate.models import ModelSettings
from snaketune.merge.verification import verify
from snaketune.train import engine as engine_module
from snaketune.train.batches import DocumentShape, document_shape
from snaketune.train.determinism import explaining_refusal
from snaketune.train.device import prepare_arithmetic
from snaketune.train.kernels import attention
from snaketune.train.out_of_memory import MemoryExhaustedError, ran_out_of_memory
from snaketune.train.probe.probing import ProbeInputs, probe
from snaketune.train.run import prepare_run
from snaketune.train.signals import StopRequest
from snaketune.train.trainer import PackedTrainer

HALF_CARD = pytest.mark.parametrize("card", ["4090"], indirect=True)


@pytest.mark.parametrize(
    ("card", "setting", "recipe"),
    [("4090", True, "tensorwise"), ("H100", "rowwise", "rowwise"), ("B200", True, "tensorwise")],
    indirect=["card"],
)
def test_layers_become_float8_after_the_checks_and_adapters_never(
    card, base, rows, tmp_path, monkeypatch, setting, recipe
):
    def check(model):
        checked.append(sum(isinstance(module, Float8) for module in model.modules()))

    checked = []
    put_in_fake_torchao(monkeypatch)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: name == "torchao" or find(name, *rest))
    monkeypatch.setattr(engine_module, "check_isolation", check)
    monkeypatch.setattr(engine_module, "compile_layers", lambda model: 2)
    run = prepared(base, rows, configuration(fp8=setting), tmp_path)
    assert checked == [0]
    names = {name: layer for name, layer in run.trainer.model.named_modules() if isinstance(layer, Float8)}
    assert len(names) == 2 * 7 and all("base_layer" in name for name in names)
    assert {layer.recipe for layer in names.values()} == {recipe}


@HALF_CARD
def test_scales_of_rows_need_hopper(card, base, rows, tmp_path, monkeypatch):
    put_in_fake_torchao(monkeypatch)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: True)
    with pytest.raises(ConfigError, match=r"train.fp8: rowwise needs a Hopper or newer GPU and this is NVIDIA GeForce"):
        prepared(base, rows, configuration(fp8="rowwise"), tmp_path)


@HALF_CARD
def test_the_kernel_gets_the_documents_that_there_are_and_the_longest_of_them(card, base, rows, tmp_path):
    run = prepared(base, rows, METHODS["lora"], tmp_path)
    batch = next(iter(run.trainer.get_train_dataloader()))
    positions = batch["position_ids"]
    assert len(batch["cu_seq_lens_q"]) - 1 == int((positions == 0).sum())
    assert batch["max_length_q"] == int(positions.max()) + 1 < positions.shape[1]


@HALF_CARD
def test_compiled_layers_see_two_numbers_of_documents_and_one_length(card, base, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "compile_layers", lambda model: 2)
    cfg = method() | {"train": METHODS["lora"]["train"] | {"torch_compile": True}}
    run = prepared(base, rows, cfg, tmp_path)
    layout, shape = run.engine.layout, document_shape(rows[0])
    assert layout.longest == max(document_shape(split).longest for split in rows)
    assert 1 <= len(layout.slots) <= 2 and layout.slots[-1] >= 2 * shape.counts.max()
    batches = list(run.trainer.get_train_dataloader())
    assert {len(batch["cu_seq_lens_q"]) - 1 for batch in batches} <= {*layout.slots}
    assert {batch["max_length_q"] for batch in batches} == {layout.longest}


def test_empty_documents_are_few_where_rows_are_alike():
    """8 rows of 8,192 tokens with 22 to 67 documents: 536 slots at the most, and about 400 nearly always."""
    counts = np.random.default_rng(0).integers(22, 68, 4000)
    usual, most = DocumentShape(counts, 800).slots(8)
    assert most == 8 * counts.max()
    drawn = np.random.default_rng(1).choice(counts, (5000, 8)).sum(1)
    assert (drawn <= usual).mean() > 0.999
    assert usual < 1.5 * drawn.mean()
    assert DocumentShape(np.full(9, 3), 5).slots(2) == (6,)
    assert DocumentShape(np.zeros(0, np.int64), 1).slots(2) == ()


@HALF_CARD
def test_deterministic_kernels_are_demanded_and_taken_back(card, base, rows, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        prepared(base, rows, method(deterministic=True), tmp_path)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()  # attention would sum in any order
        assert torch._inductor.config.deterministic
        monkeypatch.setattr(PackedTrainer, "training_step", _histogram)
        run = prepared(base, rows, method(deterministic=True), tmp_path)
        refused = pytest.raises(ConfigError, match=r"deterministic: true and _histc_cuda.* set it to false")
        with refused, explaining_refusal():
            run.trainer.train()
    finally:
        prepared(base, rows, method(), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ and "FLASH_ATTENTION_DETERMINISTIC" not in os.environ


def _histogram(self, *args, **kwargs):
    raise RuntimeError("_histc_cuda does not have a deterministic implementation, but you set 'torch.use_...'")


@HALF_CARD
def test_adapters_keep_no_float32_copies_of_their_inputs(card, base, rows, tmp_path):
    kept = {}
    for casts in (True, False):
        model = prepared(base, rows, METHODS["lora"], tmp_path).trainer.model
        layers = [module for module in model.modules() if hasattr(module, "cast_input_dtype_enabled")]
        assert layers and not any(layer.cast_input_dtype_enabled for layer in layers)
        for layer in layers:
            layer.cast_input_dtype_enabled = casts
        saved = {}
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=saved: (s.setdefault(t.untyped_storage()._cdata, t), t)[1], lambda t: t
        )
        torch.manual_seed(0)
        with hooks, torch.autocast("cuda", torch.bfloat16):
            batch = torch.randint(0, 97, (2, 24)), torch.arange(24).repeat(2, 1)
            model.base_model.model.set_attn_implementation("sdpa")
            model(input_ids=batch[0], position_ids=batch[1]).logits.float().square().sum().backward()
        gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
        kept[casts] = sum(tensor.untyped_storage().nbytes() for tensor in saved.values()), gradients
        model.zero_grad()
    assert kept[False][0] < kept[True][0]
    assert all(torch.equal(one, other) for one, other in zip(kept[True][1], kept[False][1], strict=True))


OUT_OF_MEMORY_TEXTS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("NCCL Error 1: unhandled cuda error, Cuda failure 2 'out of memory'"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    RuntimeError("CUDA driver error: out of memory"),
    OSError(12, "Cannot allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY_TEXTS, ids=lambda error: str(error)[:40])
def test_all_that_says_out_of_memory_is_a_shortage(error):
    assert ran_out_of_memory(error)
    try:
        raise ValueError("backend='inductor' raised") from error
    except ValueError as wrapped:
        assert ran_out_of_memory(wrapped)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access was encountered"), KeyError("x")])
def test_other_errors_are_none(error):
    assert not ran_out_of_memory(error)


@pytest.fixture
def collector(monkeypatch):
    """The garbage collector as a training has it: the tests freeze what is imported for good, and here nothing is."""
    monkeypatch.setattr(gc, "freeze", preloaded.freeze)
    monkeypatch.setattr(gc, "unfreeze", preloaded.unfreeze)
    gc.unfreeze()


@HALF_CARD
def test_a_candidate_that_runs_out_of_memory_leaves_nothing_behind(card, base, rows, tmp_path, monkeypatch, collector):
    models = []

    def exhaust(self, model, *args, **kwargs):
        models.append(weakref.ref(self.model))
        raise RuntimeError("Triton Error [CUDA]: out of memory")

    monkeypatch.setattr(PackedTrainer, "training_step", exhaust)
    inputs = ProbeInputs(base, *rows, tmp_path / "probe")
    with pytest.raises(MemoryExhaustedError, match="out of memory: the run needs"):
        probe(inputs, method(), SETTINGS, steps=1, warmup_steps=1, repeats=1)
    assert models and models[0]() is None
    assert gc.get_freeze_count() == 0


def test_a_frozen_collector_is_thawed_by_any_end(base, rows, tmp_path, monkeypatch, collector):
    monkeypatch.setattr(PackedTrainer, "training_step", lambda *a, **k: (_ for _ in ()).throw(TrainingError("stop")))
    run = prepare_run(base, *rows, method(), SETTINGS, tmp_path, prepare_arithmetic(1), StopRequest())
    with pytest.raises(TrainingError):
        run.trainer.train()
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize(
    ("card", "gigabytes", "dtype"),
    [("4090", 32, "bfloat16"), ("4090", 12, "float32"), ("H100", 32, "float32"), ("T4", 32, "float16")],
    indirect=["card"],
)
def test_a_merge_is_compared_in_what_the_card_has_room_for(card, base, gigabytes, dtype, monkeypatch):
    """In 16 bits nothing is judged by rounding: sums are proven exactly before, logits in the host's memory."""
    shapes = {"weight": (gigabytes * 10**9 // 4,)}
    monkeypatch.setattr(verify, "Checkpoint", lambda folder: SimpleNamespace(shapes=shapes))
    proof = SimpleNamespace(settings=ModelSettings(attn_implementation="flash_attention_2"), base_folder=base)
    found = verify.comparing_settings(proof)
    assert (found.dtype, found.attn_implementation) == (dtype, "sdpa")


@pytest.mark.parametrize(
    ("card", "sections", "words"),
    [
        ("4090", {"bf16": False, "model": {"dtype": "float32"}}, "it computes in 16 bits but this run in float32"),
        ("T4", {}, "it needs an Ampere or newer GPU"),
    ],
    indirect=["card"],
)
def test_flash_attention_by_name_is_refused_where_its_kernel_would(card, base, rows, tmp_path, sections, words):
    model = sections.pop("model", {}) | {"attn_implementation": "flash_attention_2"}
    with pytest.raises(ConfigError, match=rf"flash_attention_2 cannot be used here \({words}\): set it to auto"):
        prepared(base, rows, method(model=model, **sections), tmp_path)


@HALF_CARD
def test_an_installed_flash_attention_is_left_out_where_heads_are_too_wide(card, tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    device, found = prepare_arithmetic(1), []
    for width in (64, 512, 36):
        config = LlamaConfig(hidden_size=2 * width, num_attention_heads=2, num_key_value_heads=2, head_dim=width)
        config.save_pretrained(tmp_path / str(width))
        found.append(attention.training_attention("auto", device, torch.bfloat16, tmp_path / str(width)))
    assert found == ["flash_attention_2", "sdpa", "sdpa"]
    assert attention.training_attention("auto", device, torch.float32, tmp_path / "64") == "sdpa"
