"""What is known of Snakemake's internals is in one module, and what it builds on is so."""

import ast
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import preloaded
import pytest
from snakemake.sourcecache import SourceCache

from snaketune.workflow.snakemake_internals import Snakemake

ROOT = Path(__file__).parents[2]
INTERNALS = ROOT / "scripts/snaketune/workflow/snakemake_internals.py"
# Attributes of Snakemake's objects that no other module may name.
PRIVATE = ("_prepare_dag", "_scheduler", "_user_kill", "_open_jobs", "exit_gracefully", "dag_settings", "keepgoing")
PRIVATE += ("global_resources", "executor_plugin", "logger_manager", "overwrite_groups", "deployment_settings")


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_one_module_touches_snakemake():
    for path in (ROOT / "scripts").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        touches = {name for name in imported(tree) if name.partition(".")[0] == "snakemake"}
        touches |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in PRIVATE}
        assert bool(touches) == (path == INTERNALS), (path, touches)


def test_rules_hand_snakemakes_object_on_and_ask_it_nothing_but_where_they_are():
    asked = set()
    for path in (ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")):
        asked |= set(re.findall(r"(?<![\w\"])workflow\b(?:\.\w+)?(?=[).,])", path.read_text(encoding="utf-8")))
    assert asked == {"workflow", "workflow.basedir", "workflow.current_basedir"}


SNAKEFILE = """
import sys
sys.path.insert(0, {scripts!r})
from snaketune.workflow.snakemake_internals import operational

rule made:
    output:
        "made.txt",
    params:
        {kind}={value},
    shell:
        "echo {{params.{kind}}} > {{output}}"
"""


@pytest.mark.parametrize(
    ("value", "reruns"),
    [("lambda wildcards: {!r}", True), ("operational(lambda wildcards: {!r})", False)],
)
def test_operational_params_never_cause_a_rerun(tmp_path, value, reruns):
    """All settings rely on this contract: params of functions that take ``threads`` are not recorded."""

    def run(text, *words):
        snakefile = SNAKEFILE.format(scripts=str(ROOT / "scripts"), kind="settings", value=value.format(text))
        (tmp_path / "Snakefile").write_text(snakefile)
        command = [str(preloaded.programs() / "snakemake"), "--cores", "1", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    run("first")
    assert (tmp_path / "made.txt").read_text() == "first\n"
    assert ("rule made" in run("second", "--dry-run")) == reruns


def test_temporary_folders_are_removed_before_python_warns_of_them(tmp_path):
    own, cache = TemporaryDirectory(dir=tmp_path), SourceCache(tmp_path / "cache")
    places = [Path(own.name), cache.runtime_cache_path]
    Snakemake(SimpleNamespace(_snakemake_tmp_dir=own, sourcecache=cache)).remove_temporary_folders()
    assert not any(Path(place).exists() for place in places)


def test_a_job_of_a_cluster_leaves_the_folder_of_its_workflow(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    cache = SourceCache(tmp_path / "cache", shared)
    own = TemporaryDirectory(dir=tmp_path)
    Snakemake(SimpleNamespace(_snakemake_tmp_dir=own, sourcecache=cache)).remove_temporary_folders()
    assert shared.is_dir()
