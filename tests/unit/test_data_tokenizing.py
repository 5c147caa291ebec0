"""Templates, masks and token stores, with a tokenizer made here."""

import json

import numpy as np
import orjson
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from snaketune.common.errors import ConfigError, DataError
from snaketune.data.packing import pack
from snaketune.data.rows import PackedRows, write_rows
from snaketune.data.templates import BUILT_IN, ChatTemplate
from snaketune.data.token_store import TokenStore
from snaketune.data.tokenizer import TextTokenizer, own_chat_template
from snaketune.data.tokenizing import choose_template, tokenize_split

SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you."},
]
WITHOUT_MARKERS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer folder as prepare_model leaves it."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([m["content"] for m in CHAT] * 3, trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    names = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": {"content": "<|pad|>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(names | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    return path


@pytest.fixture
def tokenizer(folder):
    return TextTokenizer(folder)


def lines(*records):
    return [orjson.dumps({"source": 0, "line": n, **record}) + b"\n" for n, record in enumerate(records, 1)]


def trained_text(tokenizer, template, messages, tmp_path, assistant_only=True):
    tokenize_split(lines({"messages": messages}), tokenizer, template, assistant_only, tmp_path / "out")
    ids, mask = TokenStore(tmp_path / "out").document(0)
    return tokenizer.decode(ids[mask == 1].tolist())


def test_only_what_the_assistant_says_is_trained_with_its_end(tokenizer, tmp_path):
    template = ChatTemplate(BUILT_IN["chatml"], tokenizer.special_tokens)
    assert trained_text(tokenizer, template, CHAT, tmp_path) == "Hello!<|im_end|>See you.<|im_end|>"


def test_a_template_without_markers_gives_the_same_mask(tokenizer, tmp_path):
    template = ChatTemplate(WITHOUT_MARKERS, tokenizer.special_tokens)
    assert trained_text(tokenizer, template, CHAT, tmp_path) == "Hello!<|im_end|>See you.<|im_end|>"


def test_the_plain_template_trains_the_end_of_sequence(tokenizer, tmp_path):
    template = ChatTemplate(BUILT_IN["plain"], tokenizer.special_tokens)
    assert trained_text(tokenizer, template, CHAT, tmp_path) == "Hello!<|eos|>See you.<|eos|>"


def test_without_assistant_only_everything_but_the_first_token_is_trained(tokenizer, tmp_path):
    template = ChatTemplate(BUILT_IN["plain"], tokenizer.special_tokens)
    text = trained_text(tokenizer, template, CHAT, tmp_path, assistant_only=False)
    assert "<|bos|>" + text == template.render(CHAT)


@pytest.mark.parametrize("source", [BUILT_IN["chatml"], BUILT_IN["plain"]])
def test_rendering_and_masks_equal_those_of_transformers(folder, tokenizer, tmp_path, source):
    from transformers import PreTrainedTokenizerFast

    reference = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>"
    )
    expected = reference.apply_chat_template(
        CHAT, chat_template=source, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    template = ChatTemplate(source, tokenizer.special_tokens)
    tokenize_split(lines({"messages": CHAT}), tokenizer, template, True, tmp_path / "out")
    ids, mask = TokenStore(tmp_path / "out").document(0)
    assert ids.tolist() == expected["input_ids"]
    assert mask.tolist() == expected["assistant_masks"]


def test_text_ends_with_a_trained_end_of_sequence(tokenizer, tmp_path):
    account, _ = tokenize_split(lines({"text": "Hello you"}), tokenizer, None, True, tmp_path / "out")
    ids, mask = TokenStore(tmp_path / "out").document(0)
    assert ids[-1] == tokenizer.eos_id
    assert mask.tolist() == [0, *[1] * (len(ids) - 1)]
    assert account.trainable_tokens == len(ids) - 1


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    source = "{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="rewrites earlier turns"):
        ChatTemplate(source, {}).render_with_spans(CHAT)


def test_a_template_cannot_reach_the_interpreter_nor_the_clock():
    with pytest.raises(DataError):
        ChatTemplate("{{ ''.__class__.__mro__ }}{{ messages.__class__.__subclasses__() }}", {}).render(CHAT)
    assert ChatTemplate("{{ strftime_now is defined }}", {}).render(CHAT) == "False"


def test_control_tokens_in_content_never_become_control_tokens(tokenizer, tmp_path):
    template = ChatTemplate(BUILT_IN["chatml"], tokenizer.special_tokens)
    hostile = [{"role": "user", "content": "x<|im_end|>"}, {"role": "assistant", "content": "Hello!"}]
    account, _ = tokenize_split(
        lines({"messages": hostile}, {"messages": CHAT}), tokenizer, template, True, tmp_path / "out"
    )
    assert account.facts()["dropped"] == {"control_token_in_content": 1}
    assert TokenStore(tmp_path / "out").records.tolist() == [1]


def test_what_a_template_refuses_is_counted(tokenizer, tmp_path):
    template = ChatTemplate("{{ raise_exception('only two turns') }}", {})
    account, _ = tokenize_split(lines({"messages": CHAT}), tokenizer, template, True, tmp_path / "out")
    assert account.facts()["dropped"] == {"refused_by_template": 1}
    assert "only two turns" in account.first_refusal


def test_a_conversation_without_any_template_is_a_question_to_the_user(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match=r"tokens\.chat_template"):
        tokenize_split(lines({"messages": CHAT}), tokenizer, None, True, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_template_setting_names_built_in_ones_files_and_sources(tmp_path):
    (tmp_path / "t.jinja").write_text("{{ 1 }}")
    assert choose_template(None, "own") == "own"
    assert choose_template("chatml", "own") == BUILT_IN["chatml"]
    assert choose_template(str(tmp_path / "t.jinja"), None) == "{{ 1 }}"
    assert choose_template("{{ 2 }}", None) == "{{ 2 }}"
    with pytest.raises(ConfigError, match="chatlm"):
        choose_template("chatlm", None)


def test_broken_templates_are_refused_with_their_line():
    with pytest.raises(ConfigError, match="line 2"):
        ChatTemplate("{{ 1 }}\n{% for %}", {})


def test_the_models_own_template_is_found(folder, tmp_path):
    assert own_chat_template(folder) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ 3 }}"}))
    assert own_chat_template(tmp_path) == "{{ 3 }}"


def test_the_store_opens_with_datasets(tokenizer, tmp_path):
    datasets = pytest.importorskip("datasets")
    tokenize_split(lines({"text": "Hello"}, {"text": "you"}), tokenizer, None, True, tmp_path / "out")
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    store = TokenStore(tmp_path / "out")
    assert [row["input_ids"] for row in loaded] == [store.document(n)[0].tolist() for n in range(2)]
    assert loaded["length"][:] == store.lengths.tolist()


def test_an_empty_split_is_an_empty_store(tokenizer, tmp_path):
    tokenize_split([], tokenizer, None, True, tmp_path / "out")
    assert len(TokenStore(tmp_path / "out")) == 0


def test_rows_hold_every_document_with_its_boundaries(tokenizer, tmp_path):
    words = ["Hello", "See you. Bye", "Hi there, hello you", "brief", "Be"]
    tokenize_split(lines(*({"text": word} for word in words)), tokenizer, None, True, tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    counts = write_rows(tmp_path / "rows.arrow", store, pack(store.lengths, 24), 24, tokenizer.pad_id)
    rows = PackedRows(tmp_path / "rows.arrow")
    assert counts["tokens"] == int(store.lengths.sum()) == int(rows.tokens.sum())
    found = {}
    for row in range(len(rows)):
        ids, mask, positions = (rows.take(n, [row])[0] for n in ("input_ids", "loss_mask", "position_ids"))
        for document in rows.documents(row):
            part = slice(document.start, document.start + document.length)
            found[document.record] = ids[part].tolist()
            assert positions[part].tolist() == list(range(document.length))
            assert mask[document.start] == 0
        used = int(rows.tokens[row])
        assert not mask[used:].any()
        assert positions[used:].tolist() == list(range(24 - used))
    assert found == {n: store.document(n)[0].tolist() for n in range(len(words))}


def test_rows_in_several_batches_read_the_same(tokenizer, tmp_path, monkeypatch):
    words = [{"text": f"Hello {n}"} for n in range(20)]
    tokenize_split(lines(*words), tokenizer, None, True, tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    packed = pack(store.lengths, 24)
    write_rows(tmp_path / "one.arrow", store, packed, 24, 0)
    monkeypatch.setattr("snaketune.data.rows.BATCH_TOKENS", 48)
    write_rows(tmp_path / "many.arrow", store, packed, 24, 0)
    one, many = PackedRows(tmp_path / "one.arrow"), PackedRows(tmp_path / "many.arrow")
    assert np.array_equal(one.input_ids, many.input_ids)
    order = np.random.default_rng(0).permutation(len(one)).tolist()
    assert np.array_equal(one.take("position_ids", order), many.take("position_ids", order))
    assert [many.documents(row) for row in order] == [one.documents(row) for row in order]
