"""GRPO: rewards rise, a killed training ends in the same weights, and what goes wrong is one sentence."""

import numpy as np
import pytest
from presets import NAMES, method_of, prepared
from test_preference import SETTINGS, VOCABULARY, StopAt, configuration, lines, llama, weights, work_in
from test_preference import one_thread as one_thread

pytest.importorskip("trl")
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from snaketune.core.errors import ConfigError, DataError, TrainingError
from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import pack
from snaketune.train.device import prepare_arithmetic
from snaketune.train.probe.probing import ProbeInputs, probe
from snaketune.train.reinforcement import grpo, grpo_training
from snaketune.train.reinforcement.prompt_rows import prompts_of, require_context
from snaketune.train.reinforcement.rewards import Reward, ScoredBy, load_function, rewards_of
from snaketune.train.run import build_trainer, train

STOP = 2


class Asked:
    """Documents of a prompt and an answer that ends in the stop token."""

    def __init__(self, count: int):
        generator = np.random.default_rng(0)
        self.parts = [
            (generator.integers(5, VOCABULARY, 3).tolist(), [*generator.integers(5, VOCABULARY, 2).tolist(), STOP])
            for _ in range(count)
        ]
        self.records, self.seconds = np.arange(count), np.zeros(count, np.int32)
        self.lengths = np.full(count, 6, np.int32)

    def __len__(self) -> int:
        return len(self.parts)

    def document(self, index: int):
        prompt, answer = self.parts[index]
        return np.array(prompt + answer, np.int32), np.array([0] * 3 + [1] * 3, np.int8)


def tokenizer():
    words = {f"w{n}": n for n in range(VOCABULARY)}
    engine = Tokenizer(models.WordLevel(words, unk_token="w0"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "w0", "eos_token": "w1", "additional_special_tokens": ["w2"]}
    return PreTrainedTokenizerFast(tokenizer_object=engine, **special)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    llama(initializer_range=0.05).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path, store = tmp_path_factory.mktemp("rows") / "train.arrow", Asked(12)
    write_rows(path, store, pack(store.lengths, 32), 32, 0)
    return PackedRows(path)


@pytest.fixture(scope="module")
def rewarding(tmp_path_factory):
    """A file of the user's own rewards."""
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(
        "def small(prompts, completions, references):\n"
        "    return [sum(int(w[1:]) < 50 for w in c.split()) / 4 for c in completions]\n"
        "def fails(prompts, completions, references):\n    raise KeyError('x')\n"
        "def nothing(prompts, completions, references):\n    return [float('nan')] * len(completions)\n"
        "def short(prompts, completions, references):\n    return [1.0]\n"
        "def slow(prompts, completions, references):\n    while True: pass\n"
        "def equal(prompts, completions, references):\n    return [1.0] * len(completions)\n"
    )
    return path


def section(rewarding, name="small", **more):
    return {"rewards": [f"{rewarding}:{name}"], "num_generations": 4, "max_completion_length": 4, **more}


def trained(base, rows, work, group, **keys):
    cfg = configuration(method="grpo", grpo=group, per_device_train_batch_size=8, **{"max_steps": 8, **keys})
    return train(base, rows, rows, cfg, SETTINGS, work)


def test_rewards_rise_and_a_killed_training_ends_in_the_same_weights(base, rows, rewarding, tmp_path, monkeypatch):
    group, keys = section(rewarding), {"max_steps": 12, "learning_rate": 3e-2}
    whole = trained(base, rows, work_in(tmp_path, "whole"), group, **keys)
    found = lines(work_in(tmp_path, "whole"))
    assert [line["step"] for line in found] == list(range(1, 13))
    assert found[-1]["reward"] > found[0]["reward"] + 0.1
    assert found[-1]["trained_tokens"] > 0 and 0 <= found[-1]["frac_reward_zero_std"] <= 1
    added = grpo_training.add_callbacks

    def with_crash(trainer, *args):
        added(trainer, *args)
        trainer.add_callback(StopAt(8))

    monkeypatch.setattr(grpo_training, "add_callbacks", with_crash)
    with pytest.raises(KeyboardInterrupt):
        trained(base, rows, work_in(tmp_path, "parts"), group, **keys)
    monkeypatch.setattr(grpo_training, "add_callbacks", added)
    resumed = trained(base, rows, work_in(tmp_path, "parts"), group, **keys)
    assert resumed.resumed_from == 5
    assert weights(resumed) == weights(whole) != {}
    assert lines(work_in(tmp_path, "parts")) == found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fails", r"failed \(KeyError: 'x'\)"),
        ("nothing", "reward 0 is nan"),
        ("short", "returned 1 rewards"),
        ("slow", "took more than 0.2 s"),
    ],
)
def test_a_reward_that_goes_wrong_is_one_sentence(rewarding, name, words):
    (reward,) = rewards_of(section(rewarding, name) | {"reward_timeout": 0.2})
    with pytest.raises(TrainingError, match=words):
        reward(prompts=["a", "b"], completions=["c", "d"], reference=["e", "f"], trainer_state=None)


def test_groups_that_are_all_equal_teach_nothing_and_are_counted(base, rows, rewarding, tmp_path):
    trained(base, rows, work_in(tmp_path, "equal"), section(rewarding, "equal"), max_steps=2)
    assert [line["frac_reward_zero_std"] for line in lines(work_in(tmp_path, "equal"))] == [1.0, 1.0]


@pytest.mark.parametrize("preset", [name for name in NAMES if method_of(name) == "grpo"])
def test_a_preset_trains_on_a_cpu(base, rows, rewarding, tmp_path, preset):
    _, cfg, settings = prepared(preset)
    cfg["train"]["grpo"] |= {"max_completion_length": 4, "rewards": [f"{rewarding}:small"]}
    assert train(base, rows, rows, cfg, settings, work_in(tmp_path, "w")).steps == 2


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_probe_generates_and_trains(base, rows, rewarding, tmp_path, iterations):
    group = {**section(rewarding), "num_iterations": iterations, "rewards": ["run:rm", f"{rewarding}:small"]}
    cfg = configuration(method="grpo", grpo={**group, "reward_weights": [2.0, 1.0]}, per_device_train_batch_size=8)
    inputs = ProbeInputs(base, rows, rows, tmp_path / "scratch")
    found = probe(inputs, cfg, SETTINGS, steps=2, warmup_steps=1, repeats=2)
    assert found.measured_steps == 2 * {1: 2, 3: 3}[iterations]
    assert min(found.rates) > 0 and found.save_seconds > 0 and found.evaluation_seconds is None
    assert found.answers["prompt_tokens"] == 3
    assert 1 <= found.answers["answer_tokens"] <= 4 and 0 < found.answers["generation_share"] < 1
    generated = found.steps // iterations * 8
    assert found.tokens == pytest.approx(generated * (3 + found.answers["answer_tokens"]))
    assert list(tmp_path.iterdir()) == []


def test_it_has_no_steps_over_packed_rows(base, rows, rewarding, tmp_path):
    cfg = configuration(method="grpo", grpo=section(rewarding))
    with pytest.raises(ConfigError, match="trains on what it generates"):
        build_trainer(base, rows, rows, cfg, SETTINGS, tmp_path, prepare_arithmetic(1))


def test_a_collapse_stops(tmp_path):
    writer = object.__new__(grpo.GroupMetrics)
    writer._fall, writer._rewards, writer._best, writer._unit = 0.5, [], float("-inf"), 1.0
    with pytest.raises(TrainingError, match=r"step 14: the mean reward .* below the best, 0\.9"):
        for step in range(20):
            writer._see(step, 0.9 if step < 12 else 0.0)


def test_a_reward_model_scores_answers_as_its_documents_end(rows):
    seen = []

    def judge(documents):
        seen.extend(documents)
        return [float(len(document)) for document in documents]

    found = prompts_of(rows, tokenizer(), ["run:rm"])
    ids = dict(zip(found.texts, found.ids, strict=True))
    (reward,) = rewards_of(
        {"rewards": ["run:rm"], "reward_timeout": 9.0}, {"run:rm": ScoredBy(judge, ids, (STOP, 7), found.stops)}
    )
    given = {"prompts": found.texts[:2], "completions": ["w9", "w9 w8"], "reference": ["w9", "w9"]}
    assert reward(**given, completion_ids=[[9, STOP], [9, 8]]) == [6.0, 7.0]
    assert seen == [[*found.ids[0], 9, STOP, 7], [*found.ids[1], 9, 8, STOP, 7]]
    assert reward.is_scored and reward.__name__ == "run_rm"


def test_scores_collapse_in_units_of_their_own_deviation(tmp_path):
    writer = object.__new__(grpo.GroupMetrics)
    writer._fall, writer._rewards, writer._best, writer._unit = 0.5, [], float("-inf"), 4.0
    for step in range(20):
        writer._see(step, 3.0 if step < 10 else 1.5)
    with pytest.raises(TrainingError, match="more than 2 below the best"):
        for step in range(20, 30):
            writer._see(step, 0.5)


def test_prompts_and_references_are_those_of_the_rows(rows, capsys):
    found = prompts_of(rows, tokenizer(), ["exact_match"])
    store = Asked(12)
    assert found.ids == tuple(tuple(prompt) for prompt, _ in store.parts)
    assert found.references[0] == " ".join(f"w{token}" for token in store.parts[0][1][:2])
    assert found.stops == (STOP,)
    with pytest.raises(DataError, match="json_equal: none of the 12 documents"):
        prompts_of(rows, tokenizer(), ["json_equal"])
    with pytest.raises(ConfigError, match="exceed the model's context of 10"):
        require_context(found, 8, 10)


def test_the_built_in_rewards_are_those_of_evaluation():
    names = ["exact_match", "numeric_match", "json_equal", "json_valid", "length"]
    rewards = rewards_of({"rewards": names, "reward_timeout": 9.0})
    given = {"prompts": [""] * 2, "completions": ['{"a": 1.0}', "7"], "reference": ['{"a":1}', "7"]}
    made = {reward.name: reward(**given) for reward in rewards}
    assert made["exact_match"] == [0, 1] and made["json_equal"] == [1, 0]
    assert made["numeric_match"][1] == 1 and made["json_valid"][0] == 1
    assert made["length"] == [pytest.approx(0.7), 1]


def test_a_file_that_cannot_be_loaded_is_one_sentence(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("import no_such_package_at_all\n")
    with pytest.raises(ConfigError, match=r"cannot be loaded .*ModuleNotFoundError"):
        load_function(f"{path}:f")
    path.write_text("g = 1\n")
    with pytest.raises(ConfigError, match="has no function f"):
        load_function(f"{path}:f")
    assert Reward("a/b.py:f", lambda *_: []).__name__ == "a_b.py_f"
