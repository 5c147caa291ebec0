"""Every causal language model that transformers lists: its first step runs, or one sentence says why it does not."""

import gc
import shutil

import pytest
from first_step import first_step, write_rows
from matrix import TRIED
from tiny_models import UNBUILT, configuration, names
from trip import random_model

NOT_CAUSAL = ("give a causal language model", "give a model that only has a decoder")
# What is no causal language model ends when it is prepared; these end later, each with a sentence of its own.
LATER = {
    "git": ("a git model with these settings fails on a row of text",),
    "reformer": ("a reformer model with these settings fails on a row of text",),
}
# Adapters that no row of these lengths moves: a mask that takes in all there is, weights that start as zeros.
STILL = {"deepseek_v4": ("compressor",), "doge": ("dt_proj",), "zaya": ("qkv_proj",)}
STILL |= {"gemma3n_text": ("per_layer", "altup")}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    gc.freeze()  # what is imported by now: the collector walks it at each model otherwise
    yield write_rows(tmp_path_factory.mktemp("rows"))
    gc.unfreeze()


@pytest.mark.parametrize("kind", sorted({*names()} - {*TRIED} - {*UNBUILT}))
def test_the_first_step_runs_or_a_sentence_says_why_not(tmp_path, rows, kind):
    found = first_step(kind, tmp_path, rows)
    shutil.rmtree(tmp_path)
    if kind in LATER or found.error:
        assert any(words in str(found.error) for words in LATER.get(kind, NOT_CAUSAL)), found.error
        return
    assert found.attention in ("sdpa", "eager")
    idle = [name for name in found.idle if not any(part in name for part in STILL.get(kind, ()))]
    assert not idle, idle


@pytest.mark.parametrize("kind", UNBUILT)
def test_kinds_without_a_tiny_model_are_few_and_known(kind):
    with pytest.raises(Exception, match=UNBUILT[kind]):
        random_model(configuration(kind))
    assert len(UNBUILT) <= 5
