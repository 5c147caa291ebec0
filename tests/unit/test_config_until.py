"""`--until RULE` asks for the results of that rule, whatever the barrier in between."""

from types import SimpleNamespace

from test_config_runs import blueprint

from snaketune.config.until import replace_until, results_until

RUNS = {"one": {}, "two": {"merge": {"enabled": False}, "train": {"seed": 7}}}


def test_a_stage_of_a_run_ends_in_its_file_of_every_run_that_has_one():
    drawn = blueprint(RUNS)
    assert results_until(["train_model"], drawn) == [drawn.run_path(run, "adapter.manifest.json") for run in RUNS]
    assert results_until(["merge_adapter"], drawn) == [drawn.run_path("one", "merge.json")]
    assert results_until(["probe_run"], drawn) == []


def test_runs_that_share_a_data_stage_end_in_one_manifest_of_it():
    drawn = blueprint(RUNS)
    assert results_until(["pack_rows"], drawn) == [path for path in drawn.data_manifests() if "pack_rows" in path]
    assert results_until(["rightsize", "prepare_model"], drawn) == [
        *(path for path in drawn.data_manifests() if path.endswith("rightsize.json")),
        *drawn.model_manifests(),
    ]


def test_every_file_that_train_ends_in_is_the_result_of_a_rule():
    drawn = blueprint(RUNS)
    rules = ("plan_run", "train_model", "merge_adapter", "accept_merge", "evaluate_model", "describe_run")
    found = results_until([*rules, "render_report", "write_model_card"], drawn)
    assert set(drawn.run_files()) - set(found) == {drawn.run_path(run, "facts.json") for run in RUNS}


def test_other_names_are_left_to_snakemake():
    assert results_until(["train_model", "results/some.file"], blueprint(RUNS)) is None


def test_snakemake_gets_the_files_when_it_draws_its_jobs():
    drawn, settings = blueprint(RUNS), []
    workflow = SimpleNamespace(dag_settings=None)
    workflow._prepare_dag = lambda **given: settings.append((workflow.dag_settings, given))
    replace_until(workflow, drawn)
    workflow.dag_settings = SimpleNamespace(targets=frozenset({"train"}), until=frozenset({"train_model"}))
    workflow._prepare_dag(forceall=False)
    ((asked, given),) = settings
    assert (
        asked.targets == set(results_until(["train_model"], drawn)) and not asked.until and given == {"forceall": False}
    )
