"""GGUF files of our own making: what another reader of the format loads is the model that was written."""

import json
import runpy
import sys
from pathlib import Path

import gguf
import pytest
import torch
from tiny_run import TinyRun, conversations, write_data
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from snaketune.core.errors import ConfigError, TrainingError
from snaketune.core.manifest import write_manifest
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.merge.gguf_export import exporting
from snaketune.merge.gguf_export.exporting import Export, check, export, way_to_write
from snaketune.merge.gguf_export.gguf_writing import SPLITTERS, refusal, splitter, write_gguf
from snaketune.model.gguf.gguf_base import convert_gguf

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_to_gguf.py"
KINDS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
TEXT = "the lamp in the kitchen goes on at 7:30, don't it?\n  Straße 12345"


@pytest.fixture(scope="module")
def tokenizer():
    made = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|bos|>", "<|eos|>", "<|pad|>"]
    made.train_from_iterator(
        [TEXT] * 3, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=special[0], eos_token=special[1], pad_token=special[2]
    )


def write_model(folder, tokenizer, kind="llama", **changes):
    torch.manual_seed(0)
    values = {**SIZES, "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, **changes}
    model = AutoModelForCausalLM.from_config(KINDS[kind](**values))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<|bos|>{{ m.content }}<|eos|>{% endfor %}")
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "type_", "limit"),
    [
        ("llama", "f32", 1e-5),
        ("llama", "f16", 2e-2),
        ("llama", "q8_0", 0.3),
        ("qwen2", "f32", 1e-5),
        ("qwen3", "f32", 1e-5),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_what_transformers_reads_is_the_model(tmp_path, tokenizer, kind, type_, limit, tied):
    model = write_model(tmp_path / "model", tokenizer, kind, tie_word_embeddings=tied)
    assert refusal(tmp_path / "model") == ""
    write_gguf(tmp_path / "model", type_, tmp_path / "model.gguf")
    found = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        before, after = model(ids).logits, found(ids).logits
    assert (before - after).abs().max() < limit * before.abs().max()
    (tmp_path / "back").mkdir()
    convert_gguf(tmp_path / "model.gguf", tmp_path / "back", weights=False)
    again = AutoTokenizer.from_pretrained(tmp_path / "back")
    # For the others transformers takes Qwen's way of splitting, whatever the file names.
    assert kind != "llama" or again(TEXT, add_special_tokens=False)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert "<|bos|>{{ m.content }}" in again.chat_template


def test_an_eighth_bit_file_holds_eighth_bits_and_the_keys_that_others_read(tmp_path, tokenizer):
    write_model(tmp_path / "model", tokenizer)
    write_gguf(tmp_path / "model", "q8_0", tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.attn_q.weight"] == "Q8_0" and types["output_norm.weight"] == "F32"
    values = {name: reader.get_field(name).contents() for name in reader.fields}
    assert (values["tokenizer.ggml.pre"], values["tokenizer.ggml.add_bos_token"]) == ("smollm", False)
    assert values["tokenizer.ggml.eos_token_id"] == 1 and values["llama.rope.dimension_count"] == 16
    assert values["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]


def test_what_is_not_certain_is_refused(tmp_path, tokenizer):
    write_model(tmp_path, tokenizer, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})
    assert refusal(tmp_path) == "its positions are scaled (linear)"
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "phi3"}))
    assert refusal(tmp_path) == "the architecture phi3 is not one of llama, qwen2, qwen3"


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
QWEN, LLAMA = SPLITTERS


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([{**BYTES, "use_regex": True}], "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True}], "smollm"),
        ([{"type": "Digits", "individual_digits": False}, {**BYTES, "use_regex": True}], None),
        ([{"type": "Split", "pattern": {"Regex": QWEN}, "behavior": "Isolated"}, BYTES], "qwen2"),
        ([{"type": "Split", "pattern": {"Regex": LLAMA}, "behavior": "Isolated"}, BYTES], "llama-bpe"),
        ([{"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated"}, BYTES], None),
        ([{"type": "Metaspace"}], None),
        ([{**BYTES, "use_regex": True, "add_prefix_space": True}], None),
    ],
)
def test_the_way_of_splitting_has_a_name_or_none(steps, name):
    assert splitter({"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}) == name
    assert (
        splitter({"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}, "normalizer": {"type": "Lowercase"}})
        is None
    )


@pytest.fixture
def run(tmp_path, tokenizer):
    """A merged model, and rows of the same vocabulary."""
    write_model(tmp_path / "merged", tokenizer)
    (tmp_path / "model").symlink_to("merged")
    write_data(TinyRun(tmp_path), conversations(4))
    return tmp_path


def run_script(folder, monkeypatch, kind, **settings):
    write_manifest(folder / "merged.manifest.json", "merge_adapter", [folder / "merged"], {"dtype": "float32"})
    given = {"settings": json.dumps({"gguf_converter": None, **settings}), "merged": folder / "merged.manifest.json"}
    given |= {"rows": folder / "rows" / "manifest.json", "output": folder / f"model{kind}.gguf"}
    given |= {"modelfile": folder / f"Modelfile{kind}", "facts": folder / f"gguf{kind}.json"}
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    spec = json.dumps({"cfg": {"system": "Be brief."}})
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--spec", spec, f"--kind={kind}", *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return json.loads((folder / f"gguf{kind}.json").read_text())


def test_the_script_writes_checks_and_adds_a_modelfile(run, monkeypatch):
    monkeypatch.setenv("PATH", "")
    facts = run_script(run, monkeypatch, "-q8_0")
    assert (facts["type"], facts["checked"]) == ("q8_0", True)
    assert 0 < facts["mean_kl"] < 0.1
    assert facts["bytes"] == (run / "model-q8_0.gguf").stat().st_size
    assert (run / "Modelfile-q8_0").read_text().splitlines() == [
        "FROM ./model-q8_0.gguf",
        'SYSTEM """Be brief."""',
        'PARAMETER stop "<|eos|>"',
    ]


def test_a_file_that_nothing_reads_is_said_to_be_unchecked(run, monkeypatch, capsys):
    (run / "converter.py").write_text("import sys; open(sys.argv[3], 'w').write('x')")
    facts = run_script(run, monkeypatch, "", gguf_converter=str(run / "converter.py"))
    assert facts["checked"] is False and "transformers cannot load it" in facts["reason"]
    assert "Not compared with the merged model" in capsys.readouterr().out


def test_a_file_of_other_weights_is_refused(run, tokenizer):
    model = write_model(run / "other", tokenizer)
    for parameter in model.parameters():
        parameter.data.mul_(-1)
    model.save_pretrained(run / "other")
    write_gguf(run / "other", "f32", run / "model.gguf")
    with pytest.raises(TrainingError, match=r"differs from the merged one by .* nats per token"):
        check(Export(run / "merged", "float32", None), run / "model.gguf", PackedRows(run / "rows" / "eval.arrow"))


def test_the_quantiser_takes_the_full_file_and_is_named_when_it_is_missing(run, monkeypatch):
    with pytest.raises(ConfigError, match=r"llama-quantize on the PATH"):
        export(Export(run / "merged", "float32", "q4_k_m"), None, run / "model-q4_k_m.gguf")
    tool = run / "llama-quantize"
    tool.write_text('#!/bin/sh\n[ "$3" = Q4_K_M ] && cp "$1" "$2"\n')
    tool.chmod(0o755)
    monkeypatch.setattr(exporting.shutil, "which", lambda name: str(tool) if name == "llama-quantize" else None)
    export(Export(run / "merged", "float32", "q4_k_m"), None, run / "model-q4_k_m.gguf")
    assert gguf.GGUFReader(run / "model-q4_k_m.gguf").tensors


def test_a_model_that_is_not_written_here_needs_llama_cpp_and_says_why(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("PATH", "")
    write_model(tmp_path, tokenizer)
    assert way_to_write(tmp_path, None) is None
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "phi3"}))
    with pytest.raises(ConfigError, match=r"needs llama\.cpp's convert.*because the architecture phi3 is not one of"):
        way_to_write(tmp_path, None)
