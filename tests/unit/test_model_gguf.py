import contextlib
import json
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from gguf_case import TEMPLATE, small_llama, write_gguf
from model_case import prepare_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from snaketune.core.errors import ConfigError, DataError
from snaketune.model import smollm2
from snaketune.model.gguf import gguf_file
from snaketune.model.gguf.gguf_base import llama3_factors, scaled_positions
from snaketune.model.gguf.gguf_file import UnsupportedGguf, find_gguf
from snaketune.model.gguf.gguf_reader import GgufReader


def settings(name):
    return {"name_or_path": str(name), "revision": "main", "trust_remote_code": False, "tiny": {}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    file = write_gguf(folder / "sha256-0123", kind=gguf.GGMLQuantizationType.Q8_0)  # as Ollama names it
    return prepare_model(settings(file), folder / "model"), folder / "model", file


def test_what_the_file_says_is_in_the_facts(prepared):
    facts, _, _ = prepared
    assert facts["kind"] == "gguf" and facts["name"] == "Small Llama" and facts["quantization"] == "Q8_0"
    assert facts["card"] == {"license": "apache-2.0"}
    assert facts["dtype"] == "bfloat16" and facts["context_length"] == 128


def test_weights_are_the_dequantised_ones(prepared):
    _, folder, _ = prepared
    written, model = load_file(folder / "model.safetensors"), small_llama()
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            values = gguf.dequantize(gguf.quantize(values, kind), kind)
        assert torch.equal(written[name], torch.from_numpy(np.array(values)).bfloat16()), name


def test_the_folder_is_one_that_plain_transformers_loads(prepared):
    _, folder, _ = prepared
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer("hello", return_tensors="pt").input_ids
    assert tokenizer.decode(tokens[0]) == "hello" and tokens.shape[1] == 3  # he ll o
    assert tokenizer.chat_template == TEMPLATE
    with torch.no_grad():
        expected = small_llama().eval()(tokens).logits
        assert torch.nn.functional.cosine_similarity(model(tokens).logits, expected, dim=-1).min() > 0.999
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


def test_the_same_file_gives_the_same_bytes(prepared, tmp_path):
    facts, folder, file = prepared
    assert prepare_model(settings(file), tmp_path / "again") == facts
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_folder_that_holds_one_gguf_file_is_that_file(prepared, tmp_path):
    (tmp_path / "in").mkdir()
    write_gguf(tmp_path / "in" / "small.gguf")
    facts = prepare_model(settings(tmp_path / "in"), tmp_path / "out", weights=False)
    assert facts["kind"] == "gguf" and facts["parameters"] == prepared[0]["parameters"]
    assert not (tmp_path / "out" / "model.safetensors").exists() and (tmp_path / "out" / "tokenizer.json").exists()


def test_a_folder_with_several_is_refused_and_one_with_a_configuration_is_a_model_folder(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"holds 2 GGUF files \(a\.gguf, b\.gguf\): give the path of one"):
        find_gguf(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert find_gguf(tmp_path) is None


REFUSED = {
    "split": ({"split.count": 3}, ConfigError, "one of 3 parts"),
    "vision": ({"general.type": "mmproj"}, ConfigError, "vision or audio part"),
    "adapter": ({"general.type": "adapter"}, ConfigError, "LoRA adapter"),
    "positions": ({"llama.rope.scaling.type": "longrope"}, ConfigError, "scales positions by 'longrope'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_from_is_refused_in_a_sentence(case, tmp_path):
    metadata, kind, sentence = REFUSED[case]
    file = write_gguf(tmp_path / "x.gguf", **metadata)
    with pytest.raises(kind, match=sentence):
        prepare_model(settings(file), tmp_path / "model")
    assert not (tmp_path / "model").exists() and [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_a_part_is_known_by_its_name(tmp_path):
    file = write_gguf(tmp_path / "x-00001-of-00002.gguf")
    with pytest.raises(ConfigError, match="one of 2 parts"):
        prepare_model(settings(tmp_path), tmp_path / "model")
    assert file.exists()


@pytest.mark.parametrize("keep", [4, 30, 700, 5000, -100])
def test_a_file_that_was_cut_short_is_refused(tmp_path, keep):
    file = write_gguf(tmp_path / "x.gguf")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"x\.gguf cannot be read as a GGUF file .*: download it again"):
        prepare_model(settings(file), tmp_path / "model")


def test_flipped_bytes_of_the_header_end_in_a_sentence(tmp_path):
    whole = write_gguf(tmp_path / "x.gguf").read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(4, 3000, 12):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "x.gguf").write_bytes(damaged)
        with contextlib.suppress(ConfigError, DataError):  # no other error; a byte of a text may change unnoticed
            prepare_model(settings(tmp_path / "x.gguf"), tmp_path / f"model-{place}", weights=False)


def test_a_missing_weight_is_refused(tmp_path, monkeypatch):
    model = small_llama()
    complete = model.state_dict()
    monkeypatch.setattr(model, "state_dict", lambda: {k: v for k, v in complete.items() if "layers.1.mlp.up" not in k})
    file = write_gguf(tmp_path / "x.gguf", model)
    with pytest.raises(ConfigError, match=r"no weights for model\.layers\.1\.mlp\.up_proj\.weight"):
        prepare_model(settings(file), tmp_path / "model")


def test_without_the_package_a_sentence_says_how_to_install_it(tmp_path, monkeypatch):
    file = write_gguf(tmp_path / "x.gguf")
    monkeypatch.setattr(gguf_file, "GGUF_PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install --no-deps -r envs/extras/gguf\.txt"):
        prepare_model(settings(file), tmp_path / "model")


def test_scaled_positions_of_llama_3_are_found_in_their_factors():
    """The factors of Llama 3.1 8B: theta 500,000, 64 pairs; transformers computes the same frequencies."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    factors = llama3_factors(64, 500000.0, 8.0)
    found = scaled_positions(_reader(factors), {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}})
    rope = found["rope_parameters"]
    assert rope["rope_type"] == "llama3" and rope["factor"] == 8.0
    config = LlamaConfig(hidden_size=4096, num_attention_heads=32, rope_parameters=rope, max_position_embeddings=131072)
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** -(np.arange(64) / 64)
    np.testing.assert_allclose(frequencies.numpy(), plain / factors, rtol=1e-5)


def test_factors_that_no_configuration_has_are_refused():
    with pytest.raises(UnsupportedGguf, match=r"custom factors, rope_freqs\.weight"):
        scaled_positions(_reader(np.linspace(1, 9, 64)), {"rope_parameters": {"rope_theta": 500000.0}})


def test_yarn_is_taken_over():
    given = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    found = scaled_positions(_reader(None, **given), {"rope_parameters": {"rope_theta": 1e6}})
    assert found == {"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}}


def _reader(factors, **values):
    values = {"general.architecture": "llama", **values}
    tensors = [] if factors is None else [SimpleNamespace(name="rope_freqs.weight", data=factors)]
    return SimpleNamespace(tensors=tensors, value=lambda key, default=None: values.get(key, default))


def test_the_reader_gives_what_the_package_gives(tmp_path):
    file = write_gguf(tmp_path / "x.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    ours, theirs = GgufReader(file), gguf.GGUFReader(file)
    assert {key: ours.value(key) for key in ours.fields} == {k: f.contents() for k, f in theirs.fields.items()}
    for one, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert one.name == other.name and np.array_equal(one.data, other.data)


def test_smollm2_without_package_and_hub_names_both_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "SMOLLM2_PACKAGE", "no_such_package")
    monkeypatch.setattr("snaketune.model.hub._connection_problem", lambda host, port: "no network")
    with pytest.raises(ConfigError, match=r"smollm2: .*envs/extras/smollm2\.txt.*or connect to the hub"):
        prepare_model(settings("smollm2"), tmp_path / "model")
