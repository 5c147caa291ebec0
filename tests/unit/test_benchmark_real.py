"""The pure parts of the benchmark of a real model: how much is trained, equal steps, operations, and what is said."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import LlamaConfig

SIZES = {"vocab_size": 100, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def real():
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import real

    yield real
    sys.path.pop(0)


@pytest.mark.parametrize(
    ("documents", "row_length", "trained"), [(None, 64, 80), (None, 512, 164), (5, 64, 5)], ids=["tokens", "steps", "n"]
)
def test_so_many_documents_are_trained_and_the_next_are_held_out(real, documents, row_length, trained):
    args = SimpleNamespace(documents=documents, row_length=row_length, held_out=3)
    made = [(np.full(100, number), np.ones(100)) for number in range(1000)]
    assert [ids[0] for ids, _ in real.enough(iter(made), args)] == list(range(trained + 3))


@pytest.mark.parametrize("mean", [57, 190, 256])
def test_steps_of_all_cases_hold_about_as_many_tokens(real, mean):
    plain, packed, ours = (case.partition(":") for case in real.equal_cases([mean - 5, mean + 5], 256))
    rows, accumulation = (int(option.partition("=")[2]) for option in plain[2].split(","))
    assert rows * accumulation * mean == pytest.approx(8 * 256, rel=0.3)
    assert (packed[0], packed[2], ours[2]) == ("trl-packed", "rows=4,accumulation=2", "rows=8,accumulation=1")


def test_operations_are_four_for_a_frozen_weight_and_token_and_six_for_a_trained_one(real):
    config = LlamaConfig(**SIZES, num_attention_heads=2, tie_word_embeddings=True)
    masks = [np.array([0, 0, 0, 1, 1], np.int8), np.array([0, 1, 1], np.int8)]
    texts = real.Texts([(np.zeros(len(mask), np.int32), mask) for mask in masks])
    found = real.operations_per_token(config, texts)
    layer, head, squares = 4 * 16 * 16 + 3 * 16 * 32, 100 * 16, 25 + 9
    lora = 2 * 16 * (4 * (16 + 16) + 3 * (16 + 32))
    attention = 3 * 2 * 2 * 16 * squares  # products of causal halves, forward and twice backward, in two layers
    total = 8 * (4 * (2 * layer + head) + 6 * lora) + attention
    assert found == pytest.approx({"all": total / 8, "head": 4 * head, "untrained": 4 / 8})


def test_prefixes_that_are_computed_once_and_tokens_without_loss_are_left_out_of_the_second_share(real):
    result, operations = {"tokens_per_cpu_second": 2.0}, {"all": 30.0, "head": 10.0, "untrained": 0.25}
    apart = real.shares_of(result | {"real_share": 0.9}, operations, 100.0)
    assert apart == pytest.approx({"share_of_matrix_rate": 0.6, "share_of_needed": 2 * (20 + 7.5) / 100})
    shared = real.shares_of(result | {"real_share": 1.25}, operations, 100.0)
    assert shared == pytest.approx({"share_of_matrix_rate": 0.6, "share_of_needed": 2 * (16 + 7.5) / 100})


def test_the_remarks_compare_ours_with_the_others(real):
    shares = {"share_of_matrix_rate": 0.8, "share_of_needed": 0.7, "peak_memory_mb": 2500.0}
    results = [
        {"case": "plain:rows=4", "tokens_per_cpu_second": 50.0, **shares},
        {"case": "snaketune:rows=8", "tokens_per_cpu_second": 100.0, **shares},
    ]
    said = "\n".join(real._remarks(results, 90e9, 2.4))
    assert "plain:rows=4 2.00" in said and "share of 90 GFLOP" in said and "snaketune:rows=8 80% (70%)" in said
    assert "2.40 GB planned, 2.50 GB measured" in said
