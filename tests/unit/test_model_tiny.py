import json
import os
import subprocess
from itertools import islice
from pathlib import Path

import preloaded
import pytest
import torch
from model_case import prepare_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from snaketune.core.errors import ConfigError, DataError
from snaketune.model.prepare import make_tiny_model
from snaketune.model.tiny.tiny_corpus import corpus_texts, record_texts
from snaketune.model.tiny.tiny_model import SKIPPED_LABEL, Pretraining, encode_corpus, endless_batches, pad, rate_share
from snaketune.model.tiny.tiny_tokenizer import make_tokenizer

SIZES = {
    "corpus": "quickstart",
    "vocab_size": 400,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pretrain_steps": 3,
    "pretrain_batch_size": 4,
    "pretrain_learning_rate": 3e-3,
    "seed": 0,
}
SCRIPTS = Path(__file__).parents[2] / "scripts"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " half a\npound of {{ 7 }} é 🍋 "},
    {"role": "assistant", "content": '{"n":45}'},
    {"role": "user", "content": "more"},
    {"role": "assistant", "content": "no"},
]


def build(folder, records=None, **changes):
    cfg, tokenizer = {**SIZES, **changes}, folder.with_name(f"{folder.name}-tokenizer")
    for empty in (folder, tokenizer):
        empty.mkdir()
    make_tokenizer(cfg, corpus_texts(cfg["corpus"], records)(), tokenizer)
    make_tiny_model(cfg, records, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_transformers_loads_what_was_saved(tiny, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == 400
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (0, 1, 2)
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= set(contents(tiny))


def test_another_process_gives_the_same_bytes(tiny, tmp_path):
    (script := tmp_path / "build.py").write_text(
        "import pathlib, sys; sys.path[:0] = sys.argv[2:]\n"
        "import test_model_tiny; test_model_tiny.build(pathlib.Path(sys.argv[1]))\n"
    )
    # A fork of a process whose hash seed is not that of this one.
    folders = (SCRIPTS, Path(__file__).parent, Path(preloaded.__file__).parent)
    command = [preloaded.python(PYTHONHASHSEED="random"), script, tmp_path / "model", *folders]
    subprocess.run(command, env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": "random"}, check=True)
    assert contents(tmp_path / "model") == contents(tiny)


def test_the_seed_decides_the_weights_and_not_the_tokenizer(tiny, tmp_path):
    other = contents(build(tmp_path / "other", seed=1))
    assert other["model.safetensors"] != contents(tiny)["model.safetensors"]
    assert other["tokenizer.json"] == contents(tiny)["tokenizer.json"]


def test_training_lowers_the_loss(tmp_path):
    def loss(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer("weather: city Lima, day Monday", return_tensors="pt").input_ids
        return AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids, labels=ids).loss.item()

    untrained = loss(build(tmp_path / "untrained", pretrain_steps=0))
    trained = loss(build(tmp_path / "trained", pretrain_steps=60, pretrain_learning_rate=1e-2))
    assert trained < untrained - 1


def test_the_template_marks_what_the_assistant_says_and_the_end_of_its_turn(tokenizer):
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    trained = [token for token, marked in pairs if marked]
    assert tokenizer.decode(trained) == '{"n":45}<|eos|>no<|eos|>'


def test_the_template_adds_nothing_to_the_contents(tokenizer):
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    system, user, answer, more, no = (message["content"] for message in CHAT)
    expected = (
        f"<|bos|><|system|>{system}<|user|>{user}<|assistant|>{answer}<|eos|><|user|>{more}<|assistant|>{no}<|eos|>"
    )
    assert text == expected


def test_a_conversation_continues_its_prompt(tokenizer):
    prompt = tokenizer.apply_chat_template(CHAT[:2], add_generation_prompt=True, tokenize=False)
    assert tokenizer.apply_chat_template(CHAT[:3], tokenize=False) == prompt + '{"n":45}<|eos|>'


def test_an_unknown_role_is_refused(tokenizer):
    with pytest.raises(Exception, match="not narrator"):
        tokenizer.apply_chat_template([{"role": "narrator", "content": "x"}], tokenize=False)


@pytest.mark.parametrize("text", ["", " ", "naïve 🍋\n\t\x00", '{"a":45} , b', "\u2028", "don't  stop"])
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_number_is_the_same_token_wherever_it_stands(tokenizer):
    spoken, written = tokenizer("at 12")["input_ids"], tokenizer('":12')["input_ids"]
    assert spoken[-1] == written[-1]


@pytest.mark.parametrize("marker", ["<|system|>", "<|user|>", "<|assistant|>", "<|pad|>", "<|bos|>", "<|eos|>"])
def test_a_marker_is_one_token(tokenizer, marker):
    assert tokenizer(marker)["input_ids"] == [tokenizer.convert_tokens_to_ids(marker)]


def test_the_data_themselves_can_be_the_corpus(tmp_path):
    corpus = tmp_path / "train.jsonl"
    records = [
        {"messages": [{"role": "user", "content": "zyzzyva"}, {"role": "assistant", "content": "quokka"}]},
        {"text": "zyzzyva quokka axolotl"},
    ]
    corpus.write_text("".join(json.dumps(record) + "\n" for record in records * 50))
    folder = build(tmp_path / "model", corpus, corpus="data", vocab_size=300)
    tokens = AutoTokenizer.from_pretrained(folder).tokenize("zyzzyva\nquokka")
    assert tokens == ["zyzzyva", "Ċ", "quokka"]
    assert "<|user|>" not in tokens


def test_of_a_pair_the_corpus_holds_the_prompt_and_the_chosen_answer(tmp_path):
    turns = {"messages": [{"content": "a"}], "chosen": [{"content": "b"}], "rejected": [{"content": "c"}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(turns) + "\n" + json.dumps({"text": "d"}) + "\n")
    assert list(record_texts(tmp_path / "train.jsonl")) == ["a\nb", "d"]


def test_a_corpus_without_text_is_refused(tmp_path):
    corpus = tmp_path / "train.jsonl"
    corpus.write_bytes(b"")
    with pytest.raises(DataError, match="at least one record"):
        build(tmp_path / "model", corpus, corpus="data")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"vocab_size": 261}, "vocab_size 261"),
        ({"hidden_size": 18, "num_attention_heads": 4}, "multiple of 8"),
        ({"corpus": "data"}, "--corpus"),
        ({"corpus": "wikipedia"}, "quickstart or data"),
    ],
)
def test_impossible_settings_are_one_sentence(tmp_path, changes, word):
    with pytest.raises(ConfigError, match=word):
        build(tmp_path / "model", **changes)


def test_every_document_comes_once_per_round():
    documents = [[index] * (1 + index % 7) for index in range(50)]
    batches = endless_batches(documents, 8, seed=0)
    seen = [ids[0] for _ in range(7) for ids in next(batches)]
    assert sorted(seen) == list(range(50))
    assert seen != sorted(seen)


def test_a_step_of_long_texts_has_no_more_places_than_the_batch_size_allows():
    long = [[index] * 1000 for index in range(40)] + [[index] * 20 for index in range(40, 80)]
    batches = list(islice(endless_batches(long, 16, seed=0), 30))
    places = [len(batch) * max(map(len, batch)) for batch in batches]
    assert max(places) <= 16 * 128
    assert len({ids[0] for batch in batches for ids in batch}) == 80
    found = endless_batches([[1] * 30] * 64, 16, seed=0)
    assert {len(next(found)) for _ in range(8)} == {16}


def test_a_batch_may_be_larger_than_the_corpus():
    assert len(next(endless_batches([[1, 2]], 8, seed=0))) == 1


def test_padding_is_not_learned():
    inputs, labels = pad([[5, 6, 7], [8, 9]], pad_token_id=0)
    assert inputs.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert labels.tolist() == [[5, 6, 7], [8, 9, SKIPPED_LABEL]]


def plan_of(steps, batch_size=4):
    return Pretraining(steps, batch_size, learning_rate=1e-3, seed=0)


def test_a_long_text_is_cut_into_sequences_that_lose_nothing(tokenizer):
    text = "lemons and tea " * 40
    pieces = encode_corpus([text], tokenizer, context_length=16, plan=plan_of(steps=1000))
    assert max(map(len, pieces)) == 16
    assert tokenizer.decode([token for piece in pieces for token in piece]) == f"<|bos|>{text}<|eos|>"
    assert len(encode_corpus([text], tokenizer, context_length=16, plan=plan_of(steps=3, batch_size=1))) == 3


def test_no_more_of_long_texts_is_read_than_the_steps_can_train_on(tokenizer, caplog):
    read = []

    def texts():
        for number in range(100):
            read.append(number)
            yield "lemons and tea " * 1000

    plan = plan_of(steps=5, batch_size=4)
    pieces = encode_corpus(texts(), tokenizer, context_length=4096, plan=plan)
    assert max(map(len, pieces)) == plan.positions_per_step == 512
    assert len(read) == 1
    batches = list(islice(endless_batches(pieces, plan.batch_size, plan.seed), plan.steps))
    assert all(sum(map(len, batch)) <= plan.positions_per_step for batch in batches)
    assert not caplog.text  # no library complains of a text that is longer than the context


def test_the_learning_rate_rises_then_falls():
    shares = [rate_share(step, 100) for step in range(100)]
    assert shares.index(max(shares)) in range(4, 6)
    assert max(shares) == 1
    assert 0.05 <= shares[-1] < 0.06


def test_the_facts_of_a_tiny_model(tmp_path):
    cfg = {"name_or_path": "tiny", "revision": None, "trust_remote_code": False, "tiny": SIZES}
    facts = prepare_model(cfg, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert (facts["kind"], facts["name"], facts["dtype"]) == ("tiny", "tiny", "float32")
    assert facts["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert (facts["vocab_size"], facts["context_length"]) == (400, 64)
    assert facts["chat_template_digest"]
