"""SFT, a reward model from it, and GRPO by its scores, as runs of one configuration in real Snakemake."""

import json
import re

import pytest
from project import CONFIG, Project

pytest.importorskip("trl")
pytestmark = pytest.mark.story

RUNS = """runs:
  sft: {}
  scores: {model: {name_or_path: "run:sft"}, data: {sources: [data/pairs.jsonl]}, train: {method: reward}}
  better:
    model: {name_or_path: "run:sft"}
    train:
      {method: grpo, max_steps: 2, per_device_train_batch_size: 4, eval_steps: 0,
       grpo: {rewards: ["run:scores"], num_generations: 4, max_completion_length: 4}}
"""
UNTIL = ("train", "--until", "train_model")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    config = CONFIG.replace("runs: {one: {}}\n", RUNS).replace("max_steps: 8", "max_steps: 2")
    made = Project(tmp_path_factory.mktemp("project"), config.replace("test_size: 0.01", "test_size: 0.1"))
    asked = [{"prompt": f"What follows {n - 1}?"} for n in range(40)]
    answers = [{"chosen": f"The number {n} follows it.", "rejected": "I do not know."} for n in range(40)]
    pairs = [one | other | {"margin": n % 3} for n, (one, other) in enumerate(zip(asked, answers, strict=True))]
    good = [one | {"completion": other["chosen"]} for one, other in zip(asked, answers, strict=True)]
    for path, records in ((made.raw, good), (made.folder / "data" / "pairs.jsonl", pairs)):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return made


def trained(project) -> set[str]:
    return set(re.findall(r"^Job \d+: Training (\S+)$", project.output, re.MULTILINE))


def test_each_run_waits_for_what_it_uses(project):
    project.run(*UNTIL)
    assert trained(project) == {"sft", "scores", "better"}
    (metrics,) = project.folder.glob("results/runs/better/*/metrics.jsonl")
    line, *_ = metrics.read_text().splitlines()
    assert {"reward", "frac_reward_zero_std", "completion_length"} <= json.loads(line).keys()
    packed = [json.loads(path.read_text()) for path in project.folder.glob("results/data/pack_rows/*/manifest.json")]
    assert any("mean_margin" in each["splits"]["train"] for each in packed)


def test_the_same_command_again_does_nothing(project):
    assert project.run(*UNTIL) == set()


def test_another_reward_model_trains_by_its_scores_again_and_the_start_stays(project):
    project.edit(
        "config/config.yaml", "train: {method: reward}", "train: {method: reward, reward: {margin_weight: 0.5}}"
    )
    project.run(*UNTIL)
    assert trained(project) == {"scores", "better"}
