"""How many cores a data stage takes beside trainings."""

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.workflow.cores import cores_for
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.sources.inputs import ExternalInputs

CONFIG = {
    "data": {"sources": ["builtin:quickstart"]},
    "model": {"name_or_path": "tiny"},
    "runs": {
        "one": {"train": {"cpu_threads": 3}},
        "two": {"train": {"cpu_threads": 1}},
        "other": {"data": {"system_prompt": "Be brief."}, "train": {"cpu_threads": 2}},
    },
}


def test_a_data_stage_leaves_what_trainings_on_other_data_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = resolve_runs(Layer("c", CONFIG), {}, "nowhere")
    job_table = JobTable(runs, ExternalInputs(tmp_path / "digests.json"), lambda stage: "code")

    def cores(stage, run, given, gpus=1):
        id = job_table.upstream(job_table.run_ids[run], run)[stage]
        return cores_for(stage, id, job_table, given, gpus)

    assert cores("stage_sources", "one", 64) == 64, "every run waits for it"
    assert cores("read_records", "one", 64) == 62
    assert cores("read_records", "other", 64) == 61, "one training at a time, the largest"
    assert cores("read_records", "other", 64, gpus=4) == 60
    assert cores("read_records", "other", 2) == 1
    manifest = tmp_path / job_table.run_path("one", "adapter.manifest.json")
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    assert cores("read_records", "other", 64) == 63, "a finished training holds nothing"
