"""`--until RULE` asks for the results of that rule, whatever the barrier in between."""

from types import SimpleNamespace

import pytest
from test_config_runs import job_table

from snaketune.core.errors import ConfigError
from snaketune.workflow.snakemake_internals import Snakemake
from snaketune.workflow.until import replace_until, results_until

RUNS = {"one": {}, "two": {"merge": {"enabled": False}, "train": {"seed": 7}}}


def test_a_stage_of_a_run_ends_in_its_file_of_every_run_that_has_one():
    drawn = job_table(RUNS)
    assert results_until(["train_model"], drawn) == [drawn.run_path(run, "adapter.manifest.json") for run in RUNS]
    assert results_until(["merge_adapter"], drawn) == [drawn.run_path("one", "merge.json")]
    with pytest.raises(ConfigError, match="--until probe_run: no configured run has this stage"):
        results_until(["probe_run"], drawn)


def test_runs_that_share_a_data_stage_end_in_one_manifest_of_it():
    drawn = job_table(RUNS)
    assert results_until(["pack_rows"], drawn) == [path for path in drawn.data_manifests() if "pack_rows" in path]
    assert results_until(["rightsize", "prepare_model"], drawn) == [
        *(path for path in drawn.data_manifests() if path.endswith("rightsize.json")),
        *drawn.model_manifests(),
    ]


def test_every_file_that_train_ends_in_is_the_result_of_a_rule():
    drawn = job_table(RUNS)
    rules = ("plan_run", "train_model", "merge_adapter", "accept_merge", "evaluate_model", "describe_run")
    found = results_until([*rules, "render_report", "write_model_card"], drawn)
    assert set(drawn.run_files()) <= set(found)


def test_a_rule_of_shards_ends_in_their_parts():
    drawn = job_table({"one": {"data": {"shards": 2}}})
    names = [path.rpartition("/read_records/")[2].partition("/")[2] for path in results_until(["read_shard"], drawn)]
    assert names == ["parts/1-of-2.part", "parts/2-of-2.part"]
    with pytest.raises(ConfigError, match=r"no configured run has this stage: .*data\.shards"):
        results_until(["read_shard"], job_table({"one": {"data": {"shards": 1}}}))


def test_a_file_is_made_itself():
    drawn = job_table(RUNS)
    assert results_until(["results/some.file"], drawn) == ["results/some.file"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train_modle", r"not a stage of a run \(train_model\?\): use one of stage_sources, "),
        ("nonsense", "not a stage of a run: use one of"),
        ("ablate_run", "not a stage of a run.*: use one of"),
    ],
)
def test_another_name_is_one_sentence(name, words):
    with pytest.raises(ConfigError, match=f"--until {name}: {words}"):
        results_until(["train_model", name], job_table(RUNS))


def test_the_sentence_ends_the_workflow():
    said = []
    workflow = SimpleNamespace(dag_settings=SimpleNamespace(until=frozenset({"nonsense"})), _prepare_dag=print)

    def stop(error):
        said.append(error)
        raise SystemExit

    replace_until(Snakemake(workflow), job_table(RUNS), stop)
    with pytest.raises(SystemExit):
        workflow._prepare_dag()
    assert "nonsense" in str(said[0])


def test_snakemake_gets_the_files_when_it_draws_its_jobs():
    drawn, settings = job_table(RUNS), []
    workflow = SimpleNamespace(dag_settings=None)
    workflow._prepare_dag = lambda **given: settings.append((workflow.dag_settings, given))
    replace_until(Snakemake(workflow), drawn, None)
    workflow.dag_settings = SimpleNamespace(targets=frozenset({"train"}), until=frozenset({"train_model"}))
    workflow._prepare_dag(forceall=False)
    ((asked, given),) = settings
    assert (
        asked.targets == set(results_until(["train_model"], drawn)) and not asked.until and given == {"forceall": False}
    )
