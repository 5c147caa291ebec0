"""Packed rows keep their documents apart, with every kernel that can be tried here, through the adapter."""

import copy

import numpy as np
import pytest
import torch
from document_kernel import by_document
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, FalconConfig, FalconForCausalLM, LlamaConfig, MistralConfig, Qwen3Config

from snaketune.core.errors import ConfigError
from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import RowPlan
from snaketune.train.batches import (
    DENSE_STEP,
    BatchLayout,
    arrange,
    document_shape,
    filled,
    loss_places,
    with_boundaries,
)
from snaketune.train.device import Device, computing_dtype
from snaketune.train.device import attention as reading_attention
from snaketune.train.kernels import attention
from snaketune.train.kernels.attention import (
    VARLEN,
    check_isolation,
    needs_boundaries,
    register_varlen,
    training_attention,
)

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MODELS = {"llama": LlamaConfig(**SIZES), "qwen3": Qwen3Config(**SIZES, head_dim=8)}
ROWS = [[7, 9, 5], [20, 4]]
T = 24


@pytest.fixture(scope="module", autouse=True)
def reference_kernel():
    register_varlen(by_document)


def tuned(config, kernel):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=kernel)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def documents():
    generator = torch.Generator().manual_seed(2)
    return [[torch.randint(0, 97, (n,), generator=generator) for n in lengths] for lengths in ROWS]


def packed_batch():
    ids, positions = torch.zeros(len(ROWS), T, dtype=torch.long), torch.zeros(len(ROWS), T, dtype=torch.long)
    for row, parts in enumerate(documents()):
        used = sum(map(len, parts))
        ids[row, :used] = torch.cat(parts)
        positions[row] = torch.cat([torch.arange(n) for n in (*map(len, parts), T - used)])
    return {"input_ids": ids, "position_ids": positions}


def alone(model):
    return torch.cat([model(input_ids=ids[None], use_cache=False).logits[0] for row in documents() for ids in row])


def packed(model, batch):
    logits = model(**batch, use_cache=False).logits
    return torch.cat([logits[row, : sum(lengths)] for row, lengths in enumerate(ROWS)])


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("slots", [(), (8,), (3, 18)])
def test_two_packed_rows_equal_their_documents_alone(name, slots):
    expected = alone(tuned(MODELS[name], "sdpa"))
    model = tuned(MODELS[name], VARLEN)
    assert needs_boundaries(model)
    found = packed(model, with_boundaries(packed_batch(), slots))
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(packed(tuned(MODELS[name], "sdpa"), packed_batch()), expected, atol=1e-5)


def test_the_gradients_are_those_of_documents_alone():
    def gradient(kernel, run):
        model = tuned(MODELS["llama"], kernel)
        run(model).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected = gradient("sdpa", alone)
    found = gradient(VARLEN, lambda model: packed(model, with_boundaries(packed_batch(), (8,))))
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_without_boundaries_the_documents_would_mix():
    model = tuned(MODELS["llama"], VARLEN)
    whole = with_boundaries(packed_batch())
    whole["cu_seq_lens_q"] = torch.tensor([0, T, 2 * T], dtype=torch.int32)
    assert not torch.allclose(packed(model, whole), alone(tuned(MODELS["llama"], "sdpa")), atol=1e-2)
    with pytest.raises(ConfigError, match="without document boundaries"):
        model(**packed_batch(), use_cache=False)


def test_a_sliding_window_reaches_as_far_as_in_sdpa():
    config = MistralConfig(**SIZES, sliding_window=4)
    expected = packed(tuned(config, "sdpa"), packed_batch())
    assert torch.allclose(packed(tuned(config, VARLEN), with_boundaries(packed_batch())), expected, atol=1e-5)
    wider = MistralConfig(**SIZES, sliding_window=5)
    assert not torch.allclose(packed(tuned(wider, VARLEN), with_boundaries(packed_batch())), expected, atol=1e-3)


def test_float32_states_reach_the_kernel_in_autocast_s_format():
    seen = []

    def kernel(q, k, v, *rest, **options):
        seen.append({q.dtype, k.dtype, v.dtype})
        return by_document(q, k, v, *rest, **options)

    register_varlen(kernel)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            tuned(MODELS["llama"], VARLEN)(**with_boundaries(packed_batch()), use_cache=False)
    finally:
        register_varlen(by_document)
    assert seen == [{torch.bfloat16}] * 2


def test_torchs_kernel_is_called_as_it_wants_to_be():
    """On the meta device torch's own varlen_attn checks shapes, heads and arguments, and has a backward pass."""
    register_varlen()
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(MODELS["llama"], attn_implementation=VARLEN, dtype=torch.bfloat16)
        batch = with_boundaries(packed_batch(), (8,))
        moved = {name: part.to("meta") if isinstance(part, torch.Tensor) else part for name, part in batch.items()}
        logits = model(**moved, use_cache=False).logits
        logits.sum().backward()
    finally:
        register_varlen(by_document)
    assert logits.shape == (2, T, 97)
    assert model.model.layers[0].self_attn.q_proj.weight.grad.shape == (32, 32)


@pytest.mark.parametrize("kernel", ["sdpa", "eager", VARLEN])
def test_isolation_is_proven_on_the_model_itself(kernel):
    check_isolation(tuned(MODELS["llama"], kernel))


def test_a_model_that_mixes_documents_is_refused():
    torch.manual_seed(0)
    falcon = FalconForCausalLM(FalconConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4))
    with pytest.raises(ConfigError, match=r"tokens\.packing: true mixes neighbouring documents"):
        check_isolation(falcon)


GPU = Device("cuda", has_bf16=True, has_tf32=True)
CPU = Device("cpu", has_bf16=False, has_tf32=False)


@pytest.fixture
def folder(tmp_path):
    def save(**keys):
        LlamaConfig(**{**SIZES, **keys}).save_pretrained(tmp_path)
        return tmp_path

    return save


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a GPU machine with some packages."""

    def pretend(capability=(9, 0), fa2=False, fa3=False):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *a: capability)
        monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: fa2)
        monkeypatch.setattr(attention, "is_flash_attn_3_available", lambda: fa3)

    return pretend


@pytest.mark.parametrize(
    ("capability", "fa2", "fa3", "kernel"),
    [
        ((9, 0), True, True, "flash_attention_3"),
        ((9, 0), True, False, "flash_attention_2"),
        ((8, 0), True, True, "flash_attention_2"),
        ((8, 0), False, True, VARLEN),
        ((10, 0), False, False, VARLEN),
        ((7, 5), True, False, "sdpa"),
    ],
)
def test_auto_takes_the_best_kernel_that_is_there(machine, folder, capability, fa2, fa3, kernel):
    machine(capability, fa2, fa3)
    assert training_attention("auto", GPU, torch.bfloat16, folder()) == kernel


def test_auto_is_sdpa_where_the_kernels_cannot_run(machine, folder, capsys):
    machine()
    assert training_attention("auto", GPU, torch.float32, folder()) == "sdpa"
    assert capsys.readouterr().out == ""
    assert training_attention("auto", GPU, torch.bfloat16, folder(hidden_size=40, head_dim=10)) == "sdpa"
    assert "head size is 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("device", "dtype", "keys", "words"),
    [
        (CPU, torch.float32, {"attention_dropout": 0.1}, "uses attention dropout"),
        (CPU, torch.float32, {"attention_chunk_size": 8}, "within chunks"),
        (GPU, torch.float32, {}, "16 bits"),
        (GPU, torch.bfloat16, {"head_dim": 512}, "head size is 512"),
    ],
)
def test_varlen_is_refused_where_it_cannot_run(machine, folder, device, dtype, keys, words):
    machine()
    with pytest.raises(ConfigError, match=f"attn_implementation: varlen.*{words}.*set it to auto"):
        training_attention("varlen", device, dtype, folder(**keys))


def test_what_is_asked_for_is_what_is_used(machine, folder):
    machine(fa2=True, fa3=True)
    assert training_attention("varlen", GPU, torch.bfloat16, folder()) == VARLEN
    assert training_attention("eager", GPU, torch.bfloat16, folder()) == "eager"


def test_reading_a_model_never_gets_a_kernel_for_packed_training_rows():
    assert [reading_attention(name) for name in ("auto", "varlen", "sdpa")] == ["sdpa"] * 3
    assert reading_attention("flash_attention_2") == "flash_attention_2"


def test_the_computing_format_is_autocast_s_before_the_weights():
    def cfg(dtype="auto", kind="lora", **train):
        return {
            "train": {"bf16": "auto", "fp16": False, "tf32": "auto", **train},
            "model": {"dtype": dtype},
            "adapter": {"type": kind},
        }

    assert computing_dtype(cfg("float32"), GPU) == torch.bfloat16
    assert computing_dtype(cfg("float32", bf16=False), GPU) == torch.float32
    assert computing_dtype(cfg(bf16=False), GPU) == torch.bfloat16
    assert computing_dtype(cfg(kind="none", bf16=False), GPU) == torch.float32
    assert computing_dtype(cfg(fp16=True), GPU) == torch.float16
    assert computing_dtype(cfg(), CPU) == torch.float32


class Store:
    """Documents of the lengths in ROWS, every token after the first trained."""

    def __init__(self):
        self.lengths = np.array([n for row in ROWS for n in row], np.int32)
        self.records, self.seconds = np.arange(len(self.lengths)), np.zeros(len(self.lengths), np.int32)

    def document(self, index):
        return np.full(self.lengths[index], index + 1, np.int32), np.ones(self.lengths[index], np.int8)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.arrow"
    write_rows(path, Store(), RowPlan.of([np.array([0, 1, 2]), np.array([3, 4])]), T, 0)
    return PackedRows(path)


def test_a_layout_fixes_all_shapes(rows):
    shape = document_shape(rows)
    layout = BatchLayout(boundaries=True, slots=shape.slots(3), longest=shape.longest, places=True, rows=3)
    batches = [arrange(rows, indices, layout) for indices in ([0, 1], [0], [1])]
    shapes = [
        {k: v.shape for k, v in batch.items() if k not in ("max_length_q", "max_length_k", "loss_places")}
        for batch in batches
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    assert shapes[0]["cu_seq_lens_q"] == (3 * 4 + 1,)
    assert {batch["max_length_q"] for batch in batches} == {20}
    assert batches[1]["cu_seq_lens_q"].tolist() == [0, 7, 16, 21, 24, 44, 48, 68, *[72] * 5]


def test_dense_batches_hold_the_tokens_of_all_rows_and_hardly_any_padding(rows):
    layout = BatchLayout(boundaries=True, places=True, dense=True, rows=2)
    batch, apart = arrange(rows, [1, 0], layout), arrange(rows, [1, 0], BatchLayout(places=True))
    (ids,), (positions,), total = batch["input_ids"], batch["position_ids"], int(rows.tokens.sum())
    assert ids.tolist() == [token for row in (1, 0) for token in rows.input_ids[row][: rows.tokens[row]].tolist()] + [
        0
    ] * (len(ids) - total)
    assert total <= len(ids) <= min(total + DENSE_STEP, 2 * T) and len(ids) % DENSE_STEP in (0, 2 * T % DENSE_STEP)
    assert batch["cu_seq_lens_q"].tolist() == [*torch.nonzero(positions == 0).flatten().tolist(), len(ids)]
    # A loss is taken at the same tokens: none at the last one of a row, although another row follows.
    expected = [int(apart["input_ids"].reshape(-1)[place + 1]) for place in apart["loss_places"]]
    assert [int(ids[place + 1]) for place in batch["loss_places"]] == expected
    assert int((batch["labels"][:, 1:] != -100).sum()) == int((apart["labels"][:, 1:] != -100).sum())


def test_padding_counts_as_a_document(rows):
    assert document_shape(rows).counts.max() == 4  # 7 + 9 + 5 and a tail of 3


def test_rows_of_padding_carry_no_loss(rows):
    batch = arrange(rows, [0], BatchLayout())
    more = filled(batch, 4)
    assert more["input_ids"].shape == (4, T)
    assert int((more["labels"] != -100).sum()) == int((batch["labels"] != -100).sum()) == 18
    assert filled(batch, 1) is batch


def test_the_places_of_the_loss_are_one_before_the_labels(rows):
    labels = arrange(rows, [0, 1], BatchLayout())["labels"]
    places = loss_places(labels)
    assert torch.equal(labels.flatten()[places + 1], labels[labels != -100])
    labels[1, 0] = 5  # the first token of a row has nothing before it, least of all the row above
    assert torch.equal(loss_places(labels), places)
