"""A spec that no command line takes goes by file; its name changes exactly when it does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.core.long_arguments import LONGEST_ARGUMENT, in_full, shortened
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.results.pruning import find_unused_specs
from snaketune.workflow.results.specs_in_use import specs_in_use
from snaketune.workflow.sources.inputs import ExternalInputs

SCRIPT = Path(__file__).parents[2] / "scripts" / "stage_sources.py"


def test_short_specs_stay_and_long_ones_are_named_by_their_content(tmp_path):
    assert shortened("{}", tmp_path / "specs") == in_full("{}") == "{}"
    assert not (tmp_path / "specs").exists()
    texts = [json.dumps({"x": "ä" * LONGEST_ARGUMENT, "n": n}, ensure_ascii=False) for n in (1, 2)]
    names = [shortened(text, tmp_path / "specs") for text in texts]
    assert names[0] != names[1] and names[0] == shortened(texts[0], tmp_path / "specs")
    assert [in_full(name) for name in names] == texts
    assert all(len(name) < 500 for name in names)
    with pytest.raises(ConfigError, match=r"gone\.json cannot be read"):
        in_full(f"@{tmp_path}/gone.json")


def test_five_thousand_sources_are_staged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for number in range(5000):
        (Path("data") / f"part-of-the-data-{number:05}.jsonl").write_bytes(b'{"text":"%d"}\n' % number)
    file = {"data": {"sources": ["data"]}, "model": {"name_or_path": "tiny"}}
    runs, found = resolve_runs(Layer("c", file), {}, "nowhere"), ExternalInputs("work/digests.json")
    found.look_up(runs[0].config)
    job_table = JobTable(runs, found, lambda stage: "code")
    id = job_table.upstream(job_table.run_ids["default"], "default")["stage_sources"]
    spec = job_table.variant_spec("stage_sources", id)
    assert len(spec) < 200
    settings = json.dumps({"scratch": None, "threads": 1, "work": "work"})
    outputs = ["--output", "s.json", "--manifest", "m.json"]
    command = [sys.executable, SCRIPT, "--spec", spec, "--settings", settings, *outputs]
    subprocess.run(command, check=True, timeout=100)
    assert len(json.loads(Path("s.json").read_text())["sources"]) == 5000
    Path("work/specs/0123.json").write_text("{}")
    unused = find_unused_specs("work", set(specs_in_use(job_table)))
    assert [one.path for one in unused] == [Path("work/specs/0123.json")]
    assert f"@{Path('work/specs') / specs_in_use(job_table)[0]}" == spec
