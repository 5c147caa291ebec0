"""Packed rows give each document the loss it has alone, and the two ways in which that silently stops being true."""

import pyarrow as pa
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.likelihood import measure_likelihood
from snaketune.evaluate.models import ModelSettings
from snaketune.train.batches import collate

VOCABULARY, ROW_LENGTH = 97, 48
ROWS = [[7, 19, 15], [33, 5], [48]]
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


def documents():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, VOCABULARY, (n,), generator=generator) for row in ROWS for n in row]


def write(path):
    """Write the rows by hand, as the format has them: no loss on first tokens, positions restart, also in padding."""
    remaining = iter(documents())
    columns = {name: [] for name in ("input_ids", "loss_mask", "position_ids")}
    for lengths in ROWS:
        padding = ROW_LENGTH - sum(lengths)
        ids = [token for _ in lengths for token in next(remaining).tolist()]
        columns["input_ids"].append(ids + [0] * padding)
        columns["loss_mask"].append([int(at > 0) for n in lengths for at in range(n)] + [0] * padding)
        columns["position_ids"].append([at for n in (*lengths, padding) for at in range(n)])
    kinds = {"input_ids": pa.int32(), "loss_mask": pa.int8(), "position_ids": pa.int32()}
    arrays = [pa.array(columns[name], pa.list_(kind, ROW_LENGTH)) for name, kind in kinds.items()]
    firsts = [sum(map(len, ROWS[:row])) for row in range(len(ROWS))]
    arrays += [
        pa.array([sum(lengths) for lengths in ROWS], pa.int32()),
        pa.array(
            [list(range(first, first + len(n))) for first, n in zip(firsts, ROWS, strict=True)], pa.list_(pa.int64())
        ),
        pa.array(ROWS, pa.list_(pa.int32())),
    ]
    table = pa.table(arrays, names=[*kinds, "tokens", "documents", "lengths"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return PackedRows(path)


@pytest.fixture(params=["llama", "qwen2"])
def model(request):
    torch.manual_seed(1)
    torch.set_num_threads(1)
    if request.param == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    return Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()


@pytest.fixture
def rows(tmp_path):
    return write(tmp_path / "eval.arrow")


def losses_alone(model):
    with torch.no_grad():
        return [float(model(ids[None], labels=ids[None], use_cache=False).loss) * (len(ids) - 1) for ids in documents()]


def losses_packed(model, rows, **extra):
    """The documents' summed losses from one plain forward pass over the batch, with whatever else is passed to it."""
    batch = collate(rows, range(len(rows)))
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], **extra).logits
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none")
    found = [(row, document) for row in range(len(rows)) for document in rows.documents(row)]
    return [float(nll[row, d.start : d.start + d.length - 1].sum()) for row, d in found]


def test_evaluation_gives_each_document_the_loss_it_has_alone(model, rows):
    assert measure_likelihood(model, rows, ModelSettings()).nll.tolist() == pytest.approx(losses_alone(model), rel=1e-5)


def test_positions_alone_isolate_documents(model, rows):
    assert losses_packed(model, rows, use_cache=False) == pytest.approx(losses_alone(model), rel=1e-5)


@pytest.mark.parametrize(
    "extra", [{"attention_mask": torch.ones(3, ROW_LENGTH), "use_cache": False}, {"use_cache": True}]
)
def test_a_mask_of_ones_or_a_cache_mixes_documents(model, rows, extra):
    """If this ever fails, transformers became safer; until then the evaluation must pass neither."""
    mixed, alone = losses_packed(model, rows, **extra), losses_alone(model)
    assert max(abs(a - b) for a, b in zip(mixed, alone, strict=True)) > 0.1
    assert mixed[0] == pytest.approx(alone[0], rel=1e-5)


def test_a_batch_never_carries_a_mask(rows):
    assert set(collate(rows, [0, 1])) == {"input_ids", "labels", "position_ids"}


def test_the_evaluation_passes_neither_mask_nor_cache(model, rows, monkeypatch):
    passed = []
    forward = type(model.model).forward

    def spy(self, *args, **kwargs):
        passed.append(kwargs)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", spy)
    measure_likelihood(model, rows, ModelSettings())
    packed = [kwargs for kwargs in passed if kwargs.get("position_ids") is not None]
    assert packed
    assert all(kwargs.get("attention_mask") is None and kwargs["use_cache"] is False for kwargs in packed)
