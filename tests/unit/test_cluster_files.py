"""What a cluster or a container is told names rules, files and versions that exist."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = "\n".join(path.read_text() for path in (ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))))
NAMES = set(re.findall(r"^(?:rule|checkpoint) (\w+):", RULES, flags=re.MULTILINE))
PROFILE = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def local_rules():
    (block,) = re.findall(r"^localrules:\n((?:    \w+,\n)+)", RULES, flags=re.MULTILINE)
    return set(re.findall(r"\w+", block))


def test_the_profile_names_rules_that_exist():
    assert set(PROFILE["set-resources"]) | set(PROFILE["groups"]) | local_rules() <= NAMES


def test_no_job_is_sent_to_the_cluster_that_runs_at_home():
    assert not local_rules() & (set(PROFILE["set-resources"]) | set(PROFILE["groups"]))


def test_every_rule_that_wants_a_gpu_has_memory_for_a_model():
    blocks = re.split(r"^(?=(?:rule|checkpoint) )", RULES, flags=re.MULTILINE)
    wanting = {
        block.split()[1].rstrip(":") for block in blocks if re.search(r"^        gpu=", block, flags=re.MULTILINE)
    }
    memory = {rule: resources.get("mem_mb", 0) for rule, resources in PROFILE["set-resources"].items()}
    assert {rule for rule in wanting if memory.get(rule, 0) <= PROFILE["default-resources"]["mem_mb"]} == set()


def test_only_training_is_warned_of_its_time_limit():
    warned = {rule for rule, resources in PROFILE["set-resources"].items() if "--signal" in str(resources)}
    assert warned == {"train_model"}, "any other job would die of the signal"


@pytest.mark.parametrize("path", re.findall(r"^COPY (\S+)", DOCKERFILE, flags=re.MULTILINE))
def test_the_image_copies_what_exists(path):
    assert (ROOT / path).exists()


def test_the_image_holds_the_pinned_versions_and_no_others():
    assert "bash envs/install.sh" in DOCKERFILE
    assert not re.search(r"==\d", DOCKERFILE)
    for command in re.findall(r"pip install[^&|;]*", DOCKERFILE):
        assert "-c constraints.txt" in command


def test_the_image_gets_all_that_the_workflow_needs():
    lines = (ROOT / ".dockerignore").read_text().split()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[0] == "*"
    assert {"Snakefile", "constraints.txt", "rules", "scripts", "config", "profiles", "envs", "docs"} <= sent
    assert {path for path in sent if not (ROOT / path).exists()} == set()
