import math

import numpy as np
import pytest
import torch
from tiny_run import conversations, llama, write_data, write_run
from transformers import GraniteConfig, GraniteForCausalLM

from snaketune.core.errors import TrainingError
from snaketune.data.rows.cutting import CutDocuments, Sizes, cut
from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import pack
from snaketune.data.tokens.token_store import TokenStore
from snaketune.evaluate import scoring
from snaketune.evaluate.likelihood import Likelihoods, measure_likelihood
from snaketune.evaluate.measures import likelihood_measures
from snaketune.evaluate.models import ModelSettings

ALL = ("loss", "perplexity", "bits_per_byte", "token_accuracy")
SETTINGS = ModelSettings()


def single(store):
    return np.zeros(len(store), bool)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    return write_run(tmp_path_factory.mktemp("run"), conversations(23))


def padded_batch(store):
    """All documents in one right-padded batch with an attention mask: the textbook way, without packing."""
    documents = [store.document(index) for index in range(len(store))]
    ids = torch.zeros(len(documents), max(len(tokens) for tokens, _ in documents), dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (tokens, trained) in enumerate(documents):
        ids[row, : len(tokens)] = torch.from_numpy(tokens.copy())
        mask[row, : len(tokens)] = 1
        labels[row, : len(tokens)] = torch.where(torch.from_numpy(trained.copy()) == 1, ids[row, : len(tokens)], -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def granite(vocab_size):
    torch.manual_seed(3)
    return GraniteForCausalLM(
        GraniteConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            logits_scaling=7.0,
            initializer_range=0.2,
        )
    ).eval()


@pytest.mark.parametrize("build", [llama, granite])
def test_loss_equals_that_of_hugging_face_on_a_padded_batch(tiny, build):
    model, store = build(300), TokenStore(tiny.tokens / "eval")
    found = measure_likelihood(model, PackedRows(tiny.rows), SETTINGS)
    with torch.no_grad():
        expected = model(**padded_batch(store)).loss.item()
    measures = likelihood_measures(found, store, ALL, "base")
    assert measures["loss"] == pytest.approx(expected, rel=1e-5)
    assert measures["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    assert measures["n"] == 23


def test_each_document_has_the_loss_it_has_alone(tiny):
    model, store = llama(300), TokenStore(tiny.tokens / "eval")
    found = measure_likelihood(model, PackedRows(tiny.rows), SETTINGS)
    assert found.records.tolist() == store.records.tolist()
    batch = padded_batch(store)
    for place in (0, 7, 22):
        single = {name: values[place : place + 1] for name, values in batch.items()}
        with torch.no_grad():
            output = model(**single)
        tokens = int((single["labels"][:, 1:] != -100).sum())
        assert found.tokens[place] == tokens
        assert found.nll[place] == pytest.approx(output.loss.item() * tokens, rel=1e-5)
        guesses = output.logits[0, :-1].argmax(-1)
        assert found.correct[place] == int((guesses == single["labels"][0, 1:]).sum())


def test_chunks_and_passes_change_nothing(tiny, monkeypatch):
    model, rows = llama(300), PackedRows(tiny.rows)
    whole = measure_likelihood(model, rows, SETTINGS)
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 4 * 300 * 3)
    monkeypatch.setattr(scoring, "SCORED_AT_ONCE", 1)
    pieces = measure_likelihood(model, rows, SETTINGS)
    assert pieces.tokens.tolist() == whole.tokens.tolist()
    np.testing.assert_allclose(pieces.nll, whole.nll, rtol=1e-5)


def test_no_chunk_is_larger_than_its_limit(tiny, monkeypatch):
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 4 * 300 * 5)
    sizes = [len(chunk.logits) for chunk in scoring.scored_chunks(llama(300), PackedRows(tiny.rows), SETTINGS)]
    assert max(sizes) == 5


def test_bits_per_byte_counts_whole_documents_only(tiny):
    store = TokenStore(tiny.tokens / "eval")
    nll = np.ones(len(store))
    lengths = store.lengths.copy()
    lengths[4] -= 1
    found = Likelihoods(store.records, lengths, nll.astype(int), nll, np.zeros(len(store), int), single(store))
    size = store.bytes.sum() - store.bytes[4]
    measures = likelihood_measures(found, store, ("bits_per_byte",), "base")
    assert measures == {"bits_per_byte": pytest.approx(22 / math.log(2) / size), "n": 23}


def test_a_likelihood_that_is_no_number_names_the_model_and_the_record(tiny):
    store = TokenStore(tiny.tokens / "eval")
    nll = np.ones(len(store))
    nll[3] = np.nan
    found = Likelihoods(
        store.records, store.lengths, np.ones(len(store), int), nll, np.zeros(len(store), int), single(store)
    )
    with pytest.raises(TrainingError, match="tuned model's loss is not a number, first on held-out record 3"):
        likelihood_measures(found, store, ALL, "tuned")


def test_a_perplexity_beyond_floats_is_left_out(tiny):
    store = TokenStore(tiny.tokens / "eval")
    ones = np.ones(len(store))
    found = Likelihoods(store.records, store.lengths, ones.astype(int), ones * 1000, ones.astype(int), single(store))
    measures = likelihood_measures(found, store, ("loss", "perplexity"), "base")
    assert measures == {"loss": 1000.0, "n": 23}


def test_nothing_held_out_gives_a_count_of_zero_and_no_measure(tiny, tmp_path):
    empty = type(tiny)(tmp_path)
    (tmp_path / "model").symlink_to(tiny.model)
    write_data(empty, [])
    store = TokenStore(empty.tokens / "eval")
    found = measure_likelihood(llama(300), PackedRows(empty.rows), SETTINGS)
    assert likelihood_measures(found, store, ALL, "base") == {"n": 0}


def test_a_text_in_several_rows_is_one_document(tiny, tmp_path):
    store = TokenStore(tiny.tokens / "eval")
    sizes = Sizes(store.lengths, np.ones(len(store), bool), np.ones(len(store), np.int32))
    pieces = cut(sizes, 12, "drop")
    assert pieces.counts()["tokens_repeated"] > len(store)
    write_rows(tmp_path / "rows.arrow", CutDocuments(store, pieces), pack(pieces.lengths, 12), 12, 0)
    found = measure_likelihood(llama(300), PackedRows(tmp_path / "rows.arrow"), SETTINGS, texts=store.records)
    assert found.records.tolist() == store.records.tolist()
    assert found.lengths.tolist() == store.lengths.tolist()
    assert not found.rejected.any()
    assert found.tokens.tolist() == [int(store.document(n)[1][1:].sum()) for n in range(len(store))]
