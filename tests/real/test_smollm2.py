"""SmolLM2-135M-Instruct through the whole workflow: the claims of the README on a model that people fine-tune.

Its vocabulary has 49,152 tokens, its template writes a default system turn, its embeddings are tied and its weights are
bfloat16, dequantised from a GGUF file.
"""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fetching import CONVERTER, install
from real_project import STEPS
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.likelihood import measure_likelihood
from snaketune.evaluate.models import ModelSettings
from snaketune.merge.gguf_export.gguf import convert_to_gguf
from snaketune.merge.merge_inputs import MergeInputs
from snaketune.merge.merging import merge_adapter
from snaketune.merge.verification.merge_gate import check_merged_folder
from snaketune.model.gguf.gguf_base import convert_gguf
from snaketune.train.batches import collate
from snaketune.train.kernels.chunked_cross_entropy import put_chunked_loss
from snaketune.train.monitoring.metrics import VOLATILE_METRICS, read_metrics
from snaketune.train.run import train

DEFAULT_SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
MERGE = {"dtype": "auto", "max_shard_size": "5GB", "cpu_threads": 1, "attn_implementation": "sdpa"}


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.fixture(scope="module")
def tokenizer(project):
    return AutoTokenizer.from_pretrained(project.model)


@pytest.fixture(scope="module")
def splits(project):
    return [PackedRows(project.made("pack_rows") / name) for name in ("train.arrow", "eval.arrow")]


@pytest.fixture(scope="module")
def base(project):
    return load(project.model)


@pytest.fixture(scope="module")
def merged(project):
    return load(project.latest() / "merged")


def documents_of(rows):
    """Record, ids and mask of each document."""
    for row in range(len(rows)):
        for found in rows.documents(row):
            part = slice(found.start, found.start + found.length)
            yield found.record, rows.input_ids[row][part].tolist(), rows.loss_mask[row][part]


def test_rows_are_what_transformers_renders_and_answers_with_their_ends_are_trained(project, tokenizer, splits):
    records = [json.loads(line) for line in (project.made("split_records") / "train.jsonl").read_bytes().splitlines()]
    systems = 0
    for record, ids, mask in documents_of(splits[0]):
        messages = records[record]["messages"]
        assert ids == tokenizer.apply_chat_template(messages, return_dict=False), messages
        systems += tokenizer.decode(ids).startswith(DEFAULT_SYSTEM)
        # The rule of inference: an answer begins behind the generation prompt and ends with its end of turn.
        expected = np.zeros(len(ids), np.int8)
        for turn, message in enumerate(messages):
            if message["role"] == "assistant":
                start = len(
                    tokenizer.apply_chat_template(messages[:turn], add_generation_prompt=True, return_dict=False)
                )
                end = start + ids[start:].index(tokenizer.eos_token_id) + 1
                assert tokenizer.decode(ids[start:end]) == message["content"] + "<|im_end|>"
                expected[start:end] = 1
        assert mask.tolist() == expected.tolist(), messages
    assert 0 < systems < len(records) == sum(1 for _ in documents_of(splits[0]))


def test_packed_documents_have_the_loss_that_they_have_alone(base, splits):
    rows = splits[0]
    assert max(len(rows.documents(row)) for row in range(len(rows))) > 1
    found = measure_likelihood(base, rows, ModelSettings())
    packed, alone = dict(zip(found.records.tolist(), found.nll.tolist(), strict=True)), {}
    with torch.no_grad():
        for record, ids, mask in documents_of(rows):
            tokens = torch.tensor([ids])
            labels = tokens.masked_fill(torch.from_numpy(mask.astype(bool))[None].logical_not(), -100)
            alone[record] = float(base(tokens, labels=labels, use_cache=False).loss) * int(mask.sum())
    assert packed == pytest.approx(alone, rel=1e-4)


def test_the_chunked_loss_is_the_models_own_with_its_gradients(project, splits):
    model, batch = load(project.model), collate(splits[0], [0, 1])
    weights = [model.model.layers[0].mlp.up_proj.weight, model.model.norm.weight]
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is weight for weight in weights))
    found = []
    for _ in range(2):
        loss = model(**batch, use_cache=False).loss
        found.append([loss.detach(), *torch.autograd.grad(loss, weights)])
        put_chunked_loss(model)
    for own, chunked in zip(*found, strict=True):
        assert float((own - chunked).norm() / own.norm()) < 1e-5


def test_a_training_that_was_killed_ends_in_the_bytes_of_one_that_was_not(project, splits, tmp_path):
    info = project.facts("run_info.json")
    assert info["resumed_from_step"] in (2, 4)
    finished = train(project.model, *splits, *project.training("lora"), tmp_path)
    weights = (project.latest() / "adapter" / "adapter_model.safetensors").read_bytes()
    assert (finished.checkpoint / "adapter_model.safetensors").read_bytes() == weights
    resumed, whole = (
        [{key: value for key, value in line.items() if key not in VOLATILE_METRICS} for line in read_metrics(path)]
        for path in (project.latest() / "metrics.jsonl", tmp_path / "metrics.jsonl")
    )
    assert resumed == whole and len(whole) == STEPS and whole[-1]["loss"] < whole[0]["loss"]


def test_the_plan_knew_the_peak_of_memory(project):
    for run in ("whole", "lora", "pairs"):
        planned = project.facts("plan.json", run)["memory_gb"]
        measured = project.facts("run_info.json", run)["peak_memory"]["resident_bytes"] / 1e9
        assert measured == pytest.approx(planned, rel=0.1), run


def test_merges_are_proven_equal_in_bfloat16_and_in_float32(project, splits, tmp_path):
    facts = project.facts("merge.json")
    assert facts["check"]["verdict"] == "equal" and facts["dtype"] == "bfloat16"
    template = project.made("tokenize_records") / "chat_template.jinja"
    rows = tuple(project.made("pack_rows") / name for name in ("eval.arrow", "train.arrow"))
    material = MergeInputs(project.model, project.latest() / "adapter", template, rows)
    check = merge_adapter(material, MERGE | {"dtype": "float32"}, tmp_path / "merged", check_merged_folder)["check"]
    assert check["verdict"] == "equal"
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert "lm_head.weight" not in written  # tied to the embedding
    assert {tensor.dtype for tensor in written.values()} == {torch.float32}


def test_plain_transformers_gives_the_answers_that_were_evaluated(project, merged):
    tokenizer = AutoTokenizer.from_pretrained(project.latest() / "merged")
    for line in project.lines("generations.jsonl"):
        ids = tokenizer(line["prompt"], add_special_tokens=False, return_tensors="pt")
        made = merged.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert tokenizer.decode(made, skip_special_tokens=True) == line["merged"], line["prompt"]
        assert line["tuned"] != line["base"]


def test_dpo_starts_where_policy_and_reference_are_one_and_moves(project):
    first, second = project.lines("metrics.jsonl", "pairs")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert math.isfinite(second["loss"]) and second["loss"] != first["loss"]
    assert project.facts("evaluation.json", "pairs")["tuned"]["reward_accuracy"] is not None


def test_every_weight_is_trained(project, base):
    first, second = project.lines("metrics.jsonl", "whole")
    assert math.isfinite(first["loss"]) and math.isfinite(second["loss"])
    losses = project.facts("evaluation.json", "whole")
    assert losses["tuned"]["loss"] != losses["base"]["loss"]
    tuned = load(project.latest("whole") / "adapter").state_dict()
    same = [name for name, weight in base.state_dict().items() if torch.equal(weight, tuned[name])]
    assert not same


def test_the_gguf_export_holds_the_merged_model(project, merged, tokenizer, tmp_path, monkeypatch):
    place = install(tmp_path / "converter", *CONVERTER)
    monkeypatch.setenv("PYTHONPATH", str(place))
    # The converter is a script that starts the first Python of the PATH.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    convert_to_gguf(place / "convert_hf_to_gguf.py", project.latest() / "merged", "bfloat16", tmp_path / "model.gguf")
    (tmp_path / "read").mkdir()
    assert convert_gguf(tmp_path / "model.gguf", tmp_path / "read").quantization == "BF16"
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = [model(ids).logits for model in (merged, load(tmp_path / "read"))]
    # Both hold the same bfloat16 numbers, so that not even the last bit may differ.
    assert torch.equal(*logits)
