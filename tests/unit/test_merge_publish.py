import runpy
import shutil
import sys
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import TinyRun, conversations, llama, save_adapter, write_data, write_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from snaketune.core.errors import ConfigError, DataError, TrainingError
from snaketune.core.manifest import describe_files, read_manifest
from snaketune.merge import streaming
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.merge_inputs import MergeInputs
from snaketune.merge.merging import merge_adapter
from snaketune.merge.verification import divergence, logits
from snaketune.merge.verification.merge_gate import check_merged_folder
from snaketune.model.tiny.tiny_tokenizer import CHAT_TEMPLATE

SCRIPT = Path(__file__).parents[2] / "scripts" / "merge_adapter.py"
CFG = {"dtype": "auto", "max_shard_size": "5GB", "cpu_threads": 1, "attn_implementation": "sdpa"}
WEIGHTS = "adapter_model.safetensors"
TEMPLATE = CHAT_TEMPLATE.replace("<|user|>", "<|user|> ")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    torch.set_num_threads(1)
    run = write_run(tmp_path_factory.mktemp("run"), conversations(12))
    (run.tokens / "chat_template.jinja").write_text(TEMPLATE)
    (run.model / "LICENSE").write_text("free")
    (run.model / "README.md").write_text("the base model's card")
    return run


@pytest.fixture
def tiny(written, tmp_path):
    shutil.copytree(written.root, tmp_path / "run")
    return TinyRun(tmp_path / "run")


def merge(run, **changes):
    material = MergeInputs(run.model, run.adapter, run.tokens / "chat_template.jinja", (run.rows,))
    return merge_adapter(material, CFG | changes, run.root / "merged", check_merged_folder)


def spoil(run, change):
    """Apply ``change`` to the adapter's tensors on disk."""
    tensors = load_file(run.adapter / WEIGHTS)
    save_file(change(tensors), run.adapter / WEIGHTS)


def refused(run, match, error=TrainingError, **changes):
    with pytest.raises(error, match=match) as raised:
        merge(run, **changes)
    assert not (run.root / "merged").exists()
    assert not [path for path in run.root.iterdir() if path.name.startswith(".")]
    assert "\n" not in str(raised.value)


def test_a_merge_is_published_with_the_numbers_that_prove_it(tiny):
    facts = merge(tiny)
    check = facts["check"]
    assert facts["dtype"] == "float32"
    assert (check["verdict"], check["split"]) == ("equal", "eval")
    assert (check["tensors_merged"], check["adapter_tensors"]) == (14, 28)
    assert check["relative_error_fp32"] < 1e-6 and check["mean_kl"] < 1e-6
    assert check["tokens"] == check["kl_tokens"] > 20
    assert check["merged_loss"] == pytest.approx(check["adapter_loss"], rel=1e-5)


def test_the_folder_is_a_model_with_tokenizer_template_and_licence(tiny):
    merge(tiny, dtype="bfloat16")
    merged = tiny.root / "merged"
    config = orjson.loads((merged / "config.json").read_bytes())
    assert config["dtype"] == "bfloat16" and "torch_dtype" not in config
    assert AutoModelForCausalLM.from_pretrained(merged, dtype="auto").dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(merged).chat_template == TEMPLATE
    assert (merged / "LICENSE").read_text() == "free"
    assert not (merged / "README.md").exists()
    assert (merged / "generation_config.json").read_bytes() == (tiny.model / "generation_config.json").read_bytes()


@pytest.mark.parametrize("has_settings", [True, False], ids=["own settings", "settings of config.json"])
def test_answers_end_where_the_template_ends_a_turn(tiny, has_settings):
    (tiny.tokens / "chat_template.jinja").write_text(TEMPLATE.replace("+ eos_token", "+ '<|user|>'"))
    if not has_settings:
        (tiny.model / "generation_config.json").unlink()
    base, tokenizer = (kind.from_pretrained(tiny.model) for kind in (AutoModelForCausalLM, AutoTokenizer))
    merge(tiny)
    own = AutoModelForCausalLM.from_pretrained(tiny.root / "merged").generation_config
    stops = [base.generation_config.eos_token_id, tokenizer.convert_tokens_to_ids("<|user|>")]
    assert own.eos_token_id == stops and base.generation_config.eos_token_id == 2
    assert (own.bos_token_id, own.pad_token_id) == (base.generation_config.bos_token_id, base.config.pad_token_id)


def test_a_template_inside_the_tokenizer_configuration_does_not_win(tiny):
    path = tiny.model / "tokenizer_config.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"chat_template": "old"}))
    (tiny.model / "chat_template.jinja").unlink()
    merge(tiny)
    assert AutoTokenizer.from_pretrained(tiny.root / "merged").chat_template == TEMPLATE


def test_plain_text_runs_keep_the_base_template(tiny):
    (tiny.tokens / "chat_template.jinja").write_text("")
    merge(tiny)
    assert AutoTokenizer.from_pretrained(tiny.root / "merged").chat_template == CHAT_TEMPLATE


def test_shards_have_the_size_asked_for_and_load(tiny):
    merge(tiny, max_shard_size="20KB")
    files = sorted((tiny.root / "merged").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"


def test_the_training_rows_serve_when_nothing_is_held_out(tiny):
    train = tiny.rows.with_name("train.arrow")
    tiny.rows.rename(train)
    write_data(tiny, [])
    material = MergeInputs(tiny.model, tiny.adapter, tiny.tokens / "chat_template.jinja", (tiny.rows, train))
    facts = merge_adapter(material, CFG, tiny.root / "merged", check_merged_folder)
    assert facts["check"]["split"] == "train"


def test_no_rows_at_all_prove_nothing(tiny):
    write_data(tiny, [])
    refused(tiny, "no packed rows to check", DataError)


def test_a_kept_sample_of_positions_is_enough(tiny, monkeypatch):
    whole = merge(tiny, dtype="bfloat16")["check"]
    monkeypatch.setattr(divergence, "SPOOL_BYTES", 4 * 300 * 7)
    part = merge(tiny, dtype="bfloat16")["check"]
    assert 3 < part["kl_tokens"] <= 7 < whole["kl_tokens"] == part["tokens"]
    assert 0 < part["mean_kl"] < 1e-3


def test_dora_is_merged_by_peft_and_proven_the_same_way(tiny):
    shutil.rmtree(tiny.adapter)
    save_adapter(llama(300), tiny.adapter, use_dora=True)
    check = merge(tiny, max_shard_size="30KB")["check"]
    assert check["verdict"] == "equal" and check["mean_kl"] < 1e-6


def test_a_corrupt_adapter_is_refused(tiny):
    content = (tiny.adapter / WEIGHTS).read_bytes()
    (tiny.adapter / WEIGHTS).write_bytes(content[: len(content) // 2])
    refused(tiny, "adapter cannot be read")
    (tiny.adapter / WEIGHTS).unlink()
    refused(tiny, "adapter cannot be read")


def test_a_missing_or_broken_configuration_is_refused(tiny):
    (tiny.adapter / "adapter_config.json").write_text("{")
    refused(tiny, "adapter cannot be read")
    (tiny.adapter / "adapter_config.json").unlink()
    refused(tiny, r"adapter_config\.json is missing")


def test_a_renamed_module_is_refused(tiny):
    spoil(tiny, lambda t: {name.replace("layers.1.mlp.up_proj", "layers.1.mlp.over_proj"): v for name, v in t.items()})
    refused(tiny, r"1 modules of the adapter are not in the base model.*model\.layers\.1\.mlp\.over_proj")


def test_a_name_left_by_a_compiler_is_refused(tiny):
    spoil(tiny, lambda t: {name.replace("model.layers.0", "model._orig_mod.layers.0"): v for name, v in t.items()})
    refused(tiny, "saved from a compiled model")


def test_a_missing_half_is_refused(tiny):
    spoil(tiny, lambda t: {name: v for name, v in t.items() if not name.endswith("0.mlp.up_proj.lora_B.weight")})
    refused(tiny, r"layers\.0\.mlp\.up_proj has matrices of shapes \[\[4, 32\]\]")


def test_another_rank_than_configured_is_refused(tiny):
    spoil(tiny, lambda t: {name: (v[:2] if "A.weight" in name else v[:, :2]).contiguous() for name, v in t.items()})
    refused(tiny, "not an A and a B of rank 4")


def test_an_adapter_of_a_wider_model_is_refused(tiny):
    shutil.rmtree(tiny.adapter)
    save_adapter(llama(300, hidden_size=48), tiny.adapter)
    refused(tiny, "belongs to another model")


def test_an_adapter_that_learned_nothing_is_refused(tiny):
    spoil(tiny, lambda t: {name: v * 0 if "lora_B" in name else v for name, v in t.items()})
    refused(tiny, "every lora_B is zero")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tiny, value):
    def change(tensors):
        tensors["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"][1, 2] = value
        return tensors

    spoil(tiny, change)
    refused(tiny, r"layers\.1\.mlp\.down_proj\.lora_A\.weight contains non-finite numbers")


def test_a_change_lost_in_rounding_is_refused(tiny):
    spoil(tiny, lambda t: {name: v * 1e-9 if "lora_B" in name else v for name, v in t.items()})
    refused(tiny, "lost in rounding", dtype="bfloat16", rounding="nearest")


def test_numbers_beyond_float16_are_refused(tiny):
    spoil(tiny, lambda t: {name: v * 1e4 for name, v in t.items()})
    refused(tiny, "outside the range of float16", dtype="float16")


def test_a_quantised_base_is_refused(tiny):
    path = tiny.model / "config.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"quantization_config": {"bits": 4}}))
    refused(tiny, "base model is quantised", ConfigError)


def test_a_wrong_merge_is_refused_with_its_numbers(tiny, monkeypatch):
    """What the check must catch: every weight merged with half the change, consistently wrong everywhere."""
    right = streaming.merged_weight

    def half(base, adapter, module):
        weight = base.tensor(f"{module}.weight").float()
        return weight + (right(base, adapter, module) - weight) / 2

    for module in (streaming, logits):
        monkeypatch.setattr(module, "merged_weight", half)
    refused(tiny, r"are not base plus adapter: the relative error of the worst change is 0.5 \(limit 0.0001\)")


def test_a_weight_damaged_on_its_way_to_disk_is_refused(tiny, monkeypatch):
    right = Checkpoint.tensor

    def damaged(self, name):
        value = right(self, name)
        is_written = "partial" in str(self._files[name])
        return value + 1e-3 if is_written and "layers.0.mlp.down_proj" in name else value

    monkeypatch.setattr(Checkpoint, "tensor", damaged)
    refused(tiny, "differs from what was merged")


def test_an_earlier_merge_survives_a_refused_one(tiny):
    merge(tiny)
    before = (tiny.root / "merged" / "model.safetensors").read_bytes()
    spoil(tiny, lambda t: {name: v * 0 for name, v in t.items()})
    with pytest.raises(TrainingError):
        merge(tiny)
    assert (tiny.root / "merged" / "model.safetensors").read_bytes() == before


def call_script(run, output, cfg, monkeypatch):
    spec = orjson.dumps({"stage": "merge_adapter", "code": "0", "cfg": cfg}).decode()
    paths = {"model": run.model, "adapter": run.adapter, "tokens": run.tokens, "rows": run.rows,
             "output": output / "merge.json"}  # fmt: skip
    arguments = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--spec", spec, *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_script_writes_what_a_check_in_this_process_approves_of_byte_for_byte(tiny, monkeypatch):
    nested = {
        "merge": {"enabled": True, "dtype": "bfloat16", "max_shard_size": "30KB"},
        "model": {"attn_implementation": "auto", "trust_remote_code": False},
        "train": {"cpu_threads": 1},
    }
    call_script(tiny, tiny.root / "first", nested, monkeypatch)
    facts = merge(tiny, dtype="bfloat16", max_shard_size="30KB")
    manifest = read_manifest(tiny.root / "first" / "merge.json")
    assert manifest == {
        "format": 1,
        "stage": "merge_adapter",
        "files": describe_files([tiny.root / "merged"], tiny.root),
        **facts,
    }
    assert manifest["dtype"] == "bfloat16" and "merged/model.safetensors.index.json" in manifest["files"]


def test_the_script_tells_a_refusal_in_one_sentence_and_in_the_facts(tiny, monkeypatch, capsys):
    (tiny.adapter / WEIGHTS).write_bytes(b"")
    (tiny.root / "out" / "merged").mkdir(parents=True)
    call_script(tiny, tiny.root / "out", CFG, monkeypatch)
    told = capsys.readouterr().err.strip().splitlines()[-1]
    refused = read_manifest(tiny.root / "out" / "merge.json")["refused"]
    assert told == f"{refused['error']}: {refused['reason']}" and told.startswith("TrainingError: ")
    assert refused["is_final"] and not (tiny.root / "out" / "merged").exists()
