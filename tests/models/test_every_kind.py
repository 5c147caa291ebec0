"""Every causal language model that transformers lists: its first step runs, or one sentence says why it does not."""

import shutil

import pytest
from first_step import first_step, write_rows
from matrix import TRIED
from tiny_models import LATER, REFUSED, UNBUILT, configuration, names
from trip import random_model

from snaketune.train.kernels.attention import VARLEN

NOT_CAUSAL = ("give a causal language model", "give a decoder-only model")
# Adapters that no row of these lengths moves: a mask that takes in all there is, weights that start as zeros.
STILL = {"deepseek_v4": ("compressor",), "doge": ("dt_proj",), "zaya": ("qkv_proj",)}
STILL |= {"gemma3n_text": ("per_layer", "altup")}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize("kind", sorted({*names()} - {*TRIED} - {*UNBUILT}))
def test_the_first_step_runs_or_a_sentence_says_why_not(tmp_path, rows, kind):
    found = first_step(kind, tmp_path, rows)
    shutil.rmtree(tmp_path)
    if kind in LATER or kind in REFUSED:
        assert any(words in str(found.error) for words in ([LATER[kind]] if kind in LATER else NOT_CAUSAL))
        return
    assert found.error is None
    assert found.attention in ("sdpa", "eager", VARLEN)
    idle = [name for name in found.idle if not any(part in name for part in STILL.get(kind, ()))]
    assert not idle, idle


@pytest.mark.parametrize("kind", UNBUILT)
def test_kinds_without_a_tiny_model_are_few_and_known(kind):
    with pytest.raises(Exception, match=UNBUILT[kind]):
        random_model(configuration(kind))
    assert len(UNBUILT) <= 5
