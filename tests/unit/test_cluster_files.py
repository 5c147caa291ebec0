"""What a cluster or a container is told names rules, files and versions that exist."""

import re
from pathlib import Path

import pytest
import yaml

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.workflow.cluster_resources import (
    cpus_of_training,
    gpus_of_each_node,
    gpus_of_one_node,
    has_accounting,
    is_for_login_node,
    memory_mb,
    minutes,
)
from snaketune.workflow.stage_table import TABLE

NEEDS = [stage.name for stage in TABLE if stage.need]
ROOT = Path(__file__).parents[2]
RULES = "\n".join(path.read_text() for path in (ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))))
NAMES = set(re.findall(r"^(?:rule|checkpoint) (\w+):", RULES, flags=re.MULTILINE))
PROFILE = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
BLOCKS = dict(re.findall(r"^(?:rule|checkpoint) (\w+):(.*?)(?=^\w|\Z)", RULES, flags=re.MULTILINE | re.DOTALL))
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def local_rules():
    return {"rightsize", *(stage.name for stage in TABLE if stage.is_local)}


def test_the_profile_names_rules_that_exist():
    assert set(PROFILE["set-resources"]) | set(PROFILE["groups"]) | local_rules() <= NAMES


def test_no_job_is_sent_to_the_cluster_that_runs_at_home():
    assert not local_rules() & (set(PROFILE["set-resources"]) | set(PROFILE["groups"]))


def test_every_rule_that_wants_a_gpu_has_memory_for_a_model():
    blocks = re.split(r"^(?=(?:rule|checkpoint) )", RULES, flags=re.MULTILINE)
    wanting = {
        block.split()[1].rstrip(":")
        for block in blocks
        if re.search(r"^        (gpu=|\*\*REQUESTS\.of_training)", block, flags=re.MULTILINE)
    }
    assert {"train_model", "evaluate_model", "merge_adapter"} <= wanting
    memory = {rule: resources.get("mem_mb", 0) for rule, resources in PROFILE["set-resources"].items()}
    assert {rule for rule in wanting if memory.get(rule, 0) <= PROFILE["default-resources"]["mem_mb"]} == set()


def test_every_stage_that_reads_the_data_asks_for_memory_and_time_by_their_size():
    stages = {"read_shard": "read_records", "key_shard": "dedupe_records", "sketch_shard": "dedupe_records"}
    stages |= {"tokenize_shard": "tokenize_records", **{stage: stage for stage in NEEDS}}
    for rule, stage in stages.items():
        asked = re.findall(
            r'^        \*\*REQUESTS\.by_size\("(\w+)"(, in_shards=True)?\),$', BLOCKS[rule], re.MULTILINE
        )
        assert asked == [(stage, ", in_shards=True" * (rule != stage))], rule


def test_requests_grow_with_the_data_and_the_attempt():
    for stage in NEEDS:
        for ask in (memory_mb, minutes):
            assert 0 < ask(stage, 0) <= ask(stage, 10**11) < ask(stage, 10**11, 2) == 2 * ask(stage, 10**11)
    assert memory_mb("split_records", 10**11) == 88_000
    assert is_for_login_node([10**9, 10**6]) and not is_for_login_node([10**6, 10**11])


def a_run(gpus=1, nodes=1, **train):
    plan = {"num_gpus": gpus, "num_nodes": nodes}
    file = {"data": {"sources": ["x"]}, "model": {"name_or_path": "tiny"}, "train": train, "plan": plan}
    return resolve_runs(Layer("c", file), {}, "nowhere")[0]


def test_a_training_asks_for_its_gpus_at_once_or_for_each_node():
    alone, several = a_run(gpus=4, strategy="ddp"), a_run(gpus=16, nodes=2, strategy="ddp")
    assert (gpus_of_one_node(alone), gpus_of_each_node(alone)) == (4, None)
    assert (gpus_of_one_node(several), gpus_of_each_node(several)) == (0, "gpu:8")


def test_a_training_asks_for_the_cores_of_its_processes():
    def cpus(**settings):
        return cpus_of_training(a_run(**settings))

    assert cpus(cpu_threads=8) == 8
    assert cpus(cpu_threads=2, dataloader_num_workers=4) == 6
    assert cpus(cpu_threads=2, dataloader_num_workers=4, strategy="ddp", gpus=16, nodes=2) == 48


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("AccountingStorageType   = accounting_storage/none\n", False),
        ("AccountingStorageType   = (null)\n", False),
        ("AccountingStorageType   = accounting_storage/slurmdbd\n", True),
        ("", True),
    ],
)
def test_a_slurm_without_accounts_is_known_by_its_configuration(line, has):
    assert has_accounting(lambda: f"ClusterName = x\n{line}") is has


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
