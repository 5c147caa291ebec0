"""What a start of the workflow leaves out, and what it finds out once."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake import common, rules
from snakemake.jobs import Job
from snakemake.output_index import OutputIndex
from snakemake.persistence import PersistenceBase
from snakemake.persistence.file import FilePersistence

from snaketune.config import resolve
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.config.schema import LinkedConfig
from snaketune.workflow import stages
from snaketune.workflow.snakemake_internals import lighten, operational

SCRIPTS = Path(__file__).parents[2] / "scripts"
PRESETS = SCRIPTS.parent / "config" / "presets"
# What only jobs need: arrays, tables and everything that reads or tokenises.
HEAVY = ("numpy", "pandas", "pyarrow", "torch", "transformers", "tokenizers", "snaketune.data.records.record_reader")
# What a start takes its time for. Another package here is paid for by every command, also where nothing is to be done.
OURS = {"orjson", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
OURS |= {"xxhash", "yaml"}
OF_SNAKEMAKE = {"humanfriendly", "immutables", "psutil", "tenacity", "sqlmodel", "sqlalchemy", "greenlet"}
PACKAGES = """
import sys
from pathlib import Path
files = {name.partition(".")[0]: str(getattr(module, "__file__", "")) for name, module in [*sys.modules.items()]}
installed = {name for name, file in files.items() if "site-packages" in Path(file).parts}
print(*(name for name in installed if not name.startswith(("snakemake", "_"))))
print(*sys.modules)
"""


@pytest.fixture
def snakemake(monkeypatch):
    """Snakemake as it was before the test, when the test is over."""
    monkeypatch.setattr(PersistenceBase, "_serialize_param", PersistenceBase._serialize_param)
    monkeypatch.setattr(Job, "conda_env_spec", Job.conda_env_spec)
    monkeypatch.setattr(OutputIndex, "match_producers", OutputIndex.match_producers)
    for module in (common, rules):
        monkeypatch.setattr(module, "get_function_params", common.get_function_params)


def test_params_are_written_without_pandas_as_with_it(snakemake):
    with_pandas = PersistenceBase._serialize_param_pandas
    lighten()
    persistence = object.__new__(FilePersistence)
    for value in ('{"stage":"read_records"}', "", ["a"], None, 3):
        assert persistence._serialize_param(value) == with_pandas(persistence, value) == repr(value)


def test_the_parameters_of_a_function_are_looked_at_once(snakemake, monkeypatch):
    looks, original = [], inspect.signature
    monkeypatch.setattr(inspect, "signature", lambda function: looks.append(function) or original(function))
    lighten()

    def made(wildcards, threads):
        return None

    given = {"threads": 2, "attempt": 1}
    assert [common.get_input_function_aux_params(made, given) for _ in range(3)] == [{"threads": 2}] * 3
    assert list(rules.get_function_params(made)) == ["wildcards", "threads"]
    assert looks == [made]


class RuleOfOneEnvironment:
    """A rule whose environment has no wildcards, which Snakemake remembers after its first job."""

    _expanded_conda_env = rules._NOT_CACHED

    def expand_conda_env(self, wildcards, params, input):
        self._expanded_conda_env = "envs/data.yaml"
        return self._expanded_conda_env


class JobThatCounts(Job):
    """A job that counts how often params were computed."""

    _conda_env_spec, wildcards_dict, input, computed = None, {}, (), 0

    def __init__(self, rule):
        self.rule = rule

    @property
    def params(self):
        JobThatCounts.computed += 1
        return {}


def test_of_a_rule_with_one_environment_the_first_job_alone_needs_params_for_it(snakemake):
    lighten()
    rule = RuleOfOneEnvironment()
    assert [JobThatCounts(rule).conda_env_spec for _ in range(5)] == ["envs/data.yaml"] * 5
    assert JobThatCounts.computed == 1


class RuleOfPages:
    """A rule that counts what is matched with its output."""

    def __init__(self):
        self.asked = []

    def products(self):
        return []

    def is_producer(self, file):
        self.asked.append(file)
        return file == "a.html"


def test_a_file_is_matched_with_the_outputs_of_all_rules_once(snakemake, monkeypatch):
    pages = RuleOfPages()
    monkeypatch.setattr(OutputIndex, "match", lambda index, file: {pages})
    lighten()
    for found in ([{pages}, set()], [set(), {pages}]):
        index = OutputIndex([pages])
        files = ("a.html", "b.html") if found[0] else ("b.html", "a.html")
        for _ in range(3):
            producers = [index.match_producers(file) for file in files]
            assert producers == found
            producers[0].clear(), producers[1].clear()  # a caller's set is its own
    assert pages.asked == ["a.html", "b.html", "b.html", "a.html"]


def test_params_that_are_never_recorded_need_no_resources():
    assert {"threads", "resources"}.isdisjoint(inspect.signature(operational(str)).parameters)
    assert rules.Rule._is_deriving_function(operational(str))


def test_what_every_start_imports_is_light():
    lines = (SCRIPTS.parent / "rules" / "common.smk").read_text().splitlines()
    code = "\n".join([f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})", *imports(lines), PACKAGES])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages, modules = map(str.split, done.stdout.splitlines())
    assert "snaketune.workflow.job_table" in modules
    assert not {*HEAVY} & {*modules}
    assert {"orjson", "pydantic"} <= {*packages} <= OURS | OF_SNAKEMAKE


def imports(lines):
    """The imports of the project in a file of rules, each a statement of one or several lines."""
    first = next(number for number, line in enumerate(lines) if line.startswith("from snaketune."))
    end = next(number for number, line in enumerate(lines) if number > first and line.startswith("SESSION"))
    return lines[first:end]


@pytest.fixture
def runs():
    file = {"preset": "quickstart", "runs": {f"run{seed}": {"train": {"seed": seed}} for seed in range(5)}}
    return lambda: resolve_runs(Layer("c", file), {}, PRESETS)


def test_a_preset_is_read_once_for_all_runs(runs, monkeypatch):
    read, original = [], resolve.load_yaml
    monkeypatch.setattr(resolve, "load_yaml", lambda *given: read.append(given) or original(*given))
    assert len(runs()) == 5
    assert len(read) == 1


def test_the_values_of_a_run_are_written_once(runs, monkeypatch):
    configured, dumped, original = runs(), [], LinkedConfig.model_dump
    monkeypatch.setattr(LinkedConfig, "model_dump", lambda self, **form: dumped.append(self) or original(self, **form))
    table = stages.variants(configured)
    assert len({id for stage, id in table if stage == "train_model"}) == 5
    assert len(dumped) == 5
    for run in configured:
        stages.slice_of(run.config, "train_model")["train"]["seed"] = "changed by the one who asked"
        assert isinstance(stages.slice_of(run.config, "train_model")["train"]["seed"], int)
    assert len(dumped) == 5
