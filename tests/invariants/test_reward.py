"""Reward models: TRL's loss and gradients, packed = alone, resumed = uninterrupted, scores of plain transformers."""

import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from presets import prepared
from safetensors.torch import load_file, save_file
from test_preference import (
    SETTINGS,
    Pairs,
    arguments,
    configuration,
    interrupted,
    lines,
    llama,
    packed,
    weights,
    work_in,
)
from test_preference import one_thread as one_thread
from test_preference import splits as splits
from test_preference_methods import assert_same, stepped, tokenizer
from transformers import AutoModelForSequenceClassification

from snaketune.config.schema import MergeConfig
from snaketune.core.errors import ConfigError, TrainingError
from snaketune.data.rows.packing import one_per_row
from snaketune.evaluate.evaluation_settings import EvaluationInputs
from snaketune.evaluate.models import ModelSettings
from snaketune.evaluate.reward_judge import Judge, ending_of, finished, require_same_tokenizer
from snaketune.evaluate.reward_scores import evaluate_scores
from snaketune.merge.merge_inputs import MergeInputs
from snaketune.merge.merging import merge_adapter
from snaketune.merge.verification.merge_gate import check_merged_folder
from snaketune.train.checkpoints.weight_publishing import publish_weights
from snaketune.train.loading.loading import open_model
from snaketune.train.preference.reward import PairScoreLoss, RewardTrainer
from snaketune.train.run import train
from snaketune.train.trainer import assemble

LOSS = PairScoreLoss(0.01)
MARGINS = np.random.default_rng(5).choice([0.0, 0.5, 1.25, 4.0], 10)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    llama().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scoring(base):
    """A reward model whose adapter and head already do something."""

    def made():
        model = open_model(base, torch.float32, "sdpa", False, scores=True)
        torch.manual_seed(2)
        config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="SEQ_CLS", modules_to_save=["score"])
        tuned = get_peft_model(model, config)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                torch.nn.init.normal_(weight, std=0.3)
        return tuned

    return made


def test_packed_equals_alone_and_batches_change_nothing(tmp_path, scoring):
    store = Pairs(10, seed=3)
    store.margins = MARGINS
    together, apart = packed(tmp_path / "a", store), packed(tmp_path / "b", store, one_per_row)
    assert len(together) < len(apart)
    whole = stepped(scoring(), together, RewardTrainer, LOSS)
    assert any("modules_to_save" in name for name in whole[1])
    assert_same(stepped(scoring(), apart, RewardTrainer, LOSS), whole)
    assert_same(stepped(scoring(), together, RewardTrainer, LOSS, [[0], list(range(1, len(together)))]), whole)
    store.margins = None
    without = stepped(scoring(), packed(tmp_path / "c", store), RewardTrainer, LOSS)
    assert without[0] < whole[0]
    assert_same(stepped(scoring(), together, RewardTrainer, PairScoreLoss(0.01, margin_weight=0)), without)


@pytest.mark.parametrize("margins", [None, MARGINS[:8]], ids=["plain", "margins"])
def test_loss_and_gradient_are_those_of_trl(tmp_path, scoring, margins):
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import RewardConfig
    from trl import RewardTrainer as Oracle

    pairs = Pairs(8, seed=4)
    for record, part in enumerate(pairs.parts):
        part[2] += [0] if record == 3 else []  # a text that ends in the padding token is scored before it
    pairs.lengths = np.array([len(pairs.document(n)[0]) for n in range(8)], np.int32)
    pairs.margins = margins
    examples = [{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in pairs.parts]
    for example, margin in zip(examples, [] if margins is None else margins.tolist(), strict=False):
        example["margin"] = margin
    settings = RewardConfig(
        str(tmp_path / "trl"), center_rewards_coefficient=0.01, use_cpu=True, bf16=False, report_to="none",
        max_length=None, gradient_checkpointing=False, per_device_train_batch_size=8,
    )  # fmt: skip
    oracle = Oracle(scoring(), settings, train_dataset=Dataset.from_list(examples), processing_class=tokenizer())
    oracle.model.eval()
    loss = oracle.compute_loss(oracle.model, oracle.data_collator(examples))
    loss.backward()
    expected = loss.item(), {name: p.grad for name, p in oracle.model.named_parameters() if p.grad is not None}
    rows = packed(tmp_path / "a", pairs)
    assert_same(stepped(scoring(), rows, RewardTrainer, LOSS), expected)
    found = assemble(scoring(), arguments("unused"), rows, kind=RewardTrainer, loss=LOSS).held_out_measures()
    metrics = oracle._metrics["eval"]
    assert found["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found["eval_reward_margin"] == pytest.approx(metrics["margin"][0], rel=1e-4)
    assert found["eval_reward_accuracy"] == pytest.approx(metrics["accuracy"][0])
    assert found["eval_reward_mean"] == pytest.approx(metrics["mean_reward"][0], rel=1e-4)


@pytest.mark.parametrize("adapter", [{"r": 4}, {"type": "none"}])
def test_resumed_equals_uninterrupted(base, splits, tmp_path, adapter):
    keys = {"logging_steps": 3, "eval_steps": 4, "gradient_accumulation_steps": 2, "max_steps": 9}
    keys |= {"method": "reward", "adapter": adapter}
    cfg = configuration(**keys)
    whole = train(base, *splits, cfg, SETTINGS, work_in(tmp_path, "whole"))
    interrupted(base, splits, work_in(tmp_path, "parts"), at=8, **keys)
    resumed = train(base, *splits, cfg, SETTINGS, work_in(tmp_path, "parts"))
    assert resumed.resumed_from == 5
    assert weights(resumed) == weights(whole) != {}
    assert lines(work_in(tmp_path, "parts")) == lines(work_in(tmp_path, "whole"))


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    store = Pairs(12, seed=7)
    folder = tmp_path_factory.mktemp("held-out")
    return store, folder / "eval.arrow", packed(folder / "eval.arrow", store)


@pytest.fixture(scope="module", params=[{"r": 4}, {"type": "none"}], ids=["lora", "full"])
def published(request, base, held_out, tmp_path_factory):
    """A trained reward model as it is published, and its merge with the facts of the check."""
    root, rows = tmp_path_factory.mktemp("published"), held_out[2]
    cfg = configuration(method="reward", max_steps=6, adapter=request.param, learning_rate=1e-2)
    trained = train(base, rows, rows, cfg, SETTINGS, work_in(root, "w"))
    publish_weights(trained.checkpoint, root / "adapter", base, "base", None)
    (root / "template").write_text("")
    inputs = MergeInputs(base, root / "adapter", root / "template", (held_out[1],))
    slice_ = {
        "merge": MergeConfig(dtype="float32").model_dump(),
        "model": {"attn_implementation": "auto", "trust_remote_code": False},
        "train": {"cpu_threads": 1},
    }
    facts = merge_adapter(inputs, slice_, root / "merged", gate=check_merged_folder)
    return root, facts


@pytest.fixture(scope="module")
def evaluated(published, base, held_out):
    root, _ = published
    inputs = EvaluationInputs(base, root / "adapter", root / "merged", root, held_out[1], root)
    return evaluate_scores(inputs, ModelSettings())


def test_merged_model_gives_the_same_scores_in_plain_transformers(published, held_out, evaluated):
    root, facts = published
    model = AutoModelForSequenceClassification.from_pretrained(root / "merged")
    assert (model.config.num_labels, model.config.architectures) == (1, ["LlamaForSequenceClassification"])
    texts = [prompt + answer for prompt, *answers in held_out[0].parts for answer in answers]
    longest = max(map(len, texts))
    padded = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    mask = (torch.arange(longest) < torch.tensor([[len(text)] for text in texts])).long()
    with torch.no_grad():
        scores = model(input_ids=padded, attention_mask=mask).logits[:, 0].double().numpy()
    np.testing.assert_allclose(evaluated.by_model["merged"], scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(evaluated.by_model["tuned"], scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(Judge(root / "merged", ModelSettings(), batch=5)(texts), scores, rtol=1e-4, atol=1e-6)
    check = facts["check"]
    assert (check["verdict"], check["pairs_reordered"], check["scores_compared"]) == ("equal", 0, 24)
    assert check["file_logits_error"] == 0


def test_evaluation_counts_pairs_by_their_scores(evaluated):
    facts, scores = evaluated.facts, evaluated.by_model["tuned"]
    margins = scores[0::2] - scores[1::2]
    assert facts["tuned"]["preference_accuracy"] == np.mean(margins > 0) > facts["base"]["preference_accuracy"]
    assert facts["tuned"]["loss"] == pytest.approx(np.mean(np.log1p(np.exp(-margins))))
    assert facts["tuned"]["n"] == 12
    moved = facts["differences"]["tuned_minus_base"]["preference_accuracy"]
    assert moved["low"] <= moved["difference"] <= moved["high"]
    histogram = facts["scores"]
    assert sum(histogram["chosen"]) == sum(histogram["rejected"]) == 12
    assert all(pair["chosen"].startswith("w") for pair in facts["scored_pairs"])
    lines_ = list(evaluated.lines())
    assert [line.get("rejected", False) for line in lines_[:2]] == [False, True]
    assert lines_[0]["tuned_score"] == scores[0]


def test_a_merge_with_other_scores_is_refused(published, base, held_out, tmp_path):
    root, _ = published
    shutil.copytree(root / "merged", tmp_path / "merged")
    weights_ = load_file(tmp_path / "merged" / "model.safetensors")
    save_file({**weights_, "score.weight": weights_["score.weight"] * 1.01}, tmp_path / "merged" / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    inputs = MergeInputs(base, root / "adapter", root / "template", (held_out[1],))
    slice_ = {"merge": MergeConfig(dtype="float32").model_dump(), "model": {"trust_remote_code": False}}
    with pytest.raises(TrainingError, match=r"score\.weight differs from what was merged"):
        check_merged_folder(tmp_path / "merged", inputs, slice_)


def test_a_reward_model_is_no_start_of_a_language_model(published, splits, tmp_path):
    root, _ = published
    with pytest.raises(ConfigError, match="LlamaForSequenceClassification gives scores and no text"):
        train(root / "merged", *splits, configuration(method="dpo"), SETTINGS, work_in(tmp_path, "w"))


def test_a_reward_model_can_be_trained_further(published, splits, tmp_path):
    root, _ = published
    more = train(
        root / "merged", *splits, configuration(method="reward", max_steps=2), SETTINGS, work_in(tmp_path, "w")
    )
    before = load_file(root / "merged" / "model.safetensors")["score.weight"]
    after = load_file(more.checkpoint / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert 0 < float((after - before).abs().max()) < 0.01


def test_another_tokenizer_is_one_sentence(published, base, tmp_path):
    root, _ = published
    other = tokenizer()
    other.add_tokens(["more"])
    other.save_pretrained(tmp_path)
    require_same_tokenizer(root / "merged", base, "evaluate.reward_model", "rm")
    with pytest.raises(ConfigError, match=r"evaluate\.reward_model: run:rm has another tokenizer"):
        require_same_tokenizer(root / "merged", tmp_path, "evaluate.reward_model", "rm")


def test_an_answer_is_scored_with_the_ending_that_documents_have(held_out):
    assert finished([5, 6], [7, 8, 2, 9], (2, 4), (2,)) == [5, 6, 7, 8, 2, 4]
    assert finished([5, 6], [7, 8], (2, 4), (2,)) == [5, 6, 7, 8, 2, 4]
    assert len(ending_of(held_out[2])) == 1


def test_the_preset_trains_on_a_cpu(base, splits, tmp_path):
    _, cfg, settings = prepared("reward")
    assert train(base, *splits, cfg, settings, work_in(tmp_path, "w")).steps == 2
    assert all(0 < line["loss"] < 20 for line in lines(work_in(tmp_path, "w")) if "loss" in line)
